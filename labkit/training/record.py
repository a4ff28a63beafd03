"""What a finished training of a LoRA adapter has, whichever tool did it: `finetune` (PEFT) or `llamafactory`.

Covers: the numbers, the file beside the adapter, a line of words, the picture of the loss. Does not cover: training.
Used by notebook 06.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..common import figures, files
from ..common.figures import COLOURS, Picture

RECORD = "training.json"
MAX_ADAPTER_BYTES = 2 * 10**9
"""Room asked for where an adapter goes: rank 64 on every projection of an 8B model is 0.7 GB in fp32."""
RUNNING = 10
"""Steps over which the loss is averaged for the thick line."""


@dataclass(frozen=True)
class Training:
    """`losses` has one number a step: mean cross-entropy per token of the replies, in nats.

    `trainable` and `total` are parameters (of the adapter, and with the base), `seconds` is the whole call, with importing torch;
    `settings` has rank, batch (conversations a step, on each GPU) and the like.
    """

    folder: Path
    base: str
    losses: tuple[float, ...]
    seconds: float
    trainable: int
    total: int
    conversations: int
    settings: Mapping[str, Any]

    @property
    def loss(self) -> float:
        """The mean over the last tenth of the steps."""
        last = self.losses[-max(1, len(self.losses) // 10) :]
        return sum(last) / len(last)

    def amounts(self) -> str:
        """How much was trained, on what, how far and how long, in a line."""
        return (
            f"rank {self.settings['rank']}, {self.trainable:,} of {self.total:,} parameters trained, "
            f"{len(self.losses)} steps of {self.settings['batch']} on {self.conversations} conversations, "
            f"loss {self.losses[0]:.2f} to {self.loss:.3f}, {self.seconds:.0f} s"
        )

    def save(self, folder: Path) -> None:
        """Write it as training.json into `folder`, which may still have another name; its own name is all that is kept of it."""
        files.save(folder / RECORD, {**asdict(self), "folder": self.folder.name})

    def figure(self) -> Picture:
        """The loss in nats per token at every step (thin) and its running mean (thick), on a logarithmic axis."""
        with figures.drawing:
            figure = figures.new_figure(7.5, 3.4)
            axes = figure.subplots()
            steps = range(1, len(self.losses) + 1)
            means = [sum(self.losses[max(0, end - RUNNING) : end]) / min(end, RUNNING) for end in steps]
            axes.plot(steps, self.losses, color=COLOURS[0], linewidth=0.8, alpha=0.4)
            axes.plot(steps, means, color=COLOURS[0], linewidth=2)
            figures.sparse_log(axes)
            axes.set_xlabel(f"steps of {self.settings['batch']} conversations")
            axes.set_title("loss: nats per token of the reply", loc="left", fontsize=10)
            figure.supxlabel(figures.wrapped(str(self), 120), fontsize=8, color=figures.QUIET, x=0.01, ha="left")
            return figures.finish(figure, str(self))
