"""What a finished training of a LoRA adapter has, whichever tool did it: `finetune` (PEFT) or `llamafactory`.

Covers: the numbers, a line of words, the picture of the loss. Does not cover: training. Used by notebook 06.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common import figures
from ..common.figures import COLOURS, Picture


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

    def figure(self) -> Picture:
        """The loss at every step, and its running mean, on a logarithmic axis."""
        pass

        return training_figure(self)


RUNNING = 10
"""Steps over which the loss is averaged for the thick line."""


def training_figure(training: Training) -> Picture:
    """The loss in nats per token at every step (thin) and its running mean (thick), logarithmic."""
    with figures.drawing:
        figure = figures.new_figure(7.5, 3.4)
        axes = figure.subplots()
        losses = training.losses
        steps = range(1, len(losses) + 1)
        means = [sum(losses[max(0, end - RUNNING) : end]) / min(end, RUNNING) for end in steps]
        axes.plot(steps, losses, color=COLOURS[0], linewidth=0.8, alpha=0.4)
        axes.plot(steps, means, color=COLOURS[0], linewidth=2)
        figures.sparse_log(axes)
        axes.set_xlabel(f"steps of {training.settings['batch']} conversations")
        axes.set_title("loss: nats per token of the reply", loc="left", fontsize=10)
        words = str(training)
        figure.supxlabel(figures.wrapped(words, 120), fontsize=8, color=figures.QUIET, x=0.01, ha="left")
        return figures.finish(figure, words)
