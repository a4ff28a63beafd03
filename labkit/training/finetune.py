"""Trains a LoRA adapter on conversations with PEFT, in the vLLM environment, and says how it went.

    training = labkit.training.finetune.train(base, incidents.conversations("train", 512), out)
    training.figure()                                  the loss
    labkit.training.finetune.PeftTraining.load(out)        the same, another day

Only the last reply of each conversation is learnt, with its <think> block: the loss leaves out everything before it.
The adapter is an ordinary PEFT folder (adapter_config.json, adapter_model.safetensors) with training.json beside them.

QLoRA (`four_bit`) holds the frozen base in 4 bits while the adapter trains in higher precision: an 8B model then fits a 12 GB
card. It is a way to train. The adapter has learnt around the rounding of that base; served or merged on the base in bf16, as it
must be, it meets slightly other weights, so score it there. A model is served in 4 bits by quantising the merged one.

Covers: LoRA by PEFT on one device. Does not cover: LLaMA-Factory (`llamafactory`), VERL (`verl`), full training (`pretrain`),
merging (`lora.merge`). Used by notebook 06.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, Self

from ..common import disk
from ..common.errors import LabError, SettingError
from ..common.files import draft, require_empty
from ..evaluation.offline import PATIENT
from ..models.folders import require_model
from ..workers import launch
from ..workers.finetune_job import FinetuneRequest, FinetuneResult, FinetuneSettings
from . import record
from .conversations import Messages, copied, require_replies
from .record import MAX_ADAPTER_BYTES, RECORD

SCRIPT = launch.SCRIPTS / "finetune_worker.py"
SMALL_BYTES = 2 * 10**9
"""Weights of a base below which `SMALL` are the settings, else `LARGE`."""
ENVIRONMENT = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", **PATIENT}
"""Without the first, cuBLAS may sum in another order each time. (PyTorch, "Reproducibility".)"""


class Defaults(NamedTuple):
    """What `train` takes where nothing is said: a few million parameters learn at a rate that would ruin a large model."""

    steps: int
    batch: int
    learning_rate: float


SMALL = Defaults(steps=120, batch=8, learning_rate=4e-3)
LARGE = Defaults(steps=200, batch=8, learning_rate=1e-4)


@dataclass(frozen=True, repr=False)
class PeftTraining(record.Training):
    """A finished training. `tokens` are those of all replies once, `longest` those of the longest conversation.

    `seconds_before` is what passed until the first step; `products` is the type in which matrices were multiplied. `digest` is
    SHA-256 over the conversations.
    """

    seconds_before: float
    tokens: int
    longest: int
    device: str
    products: str
    digest: str
    versions: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.folder.name}: {self.amounts()} on {self.device}"

    __repr__ = __str__

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """What `train` wrote beside the adapter. Raises `LabError` for a folder that it did not make."""
        path = Path(folder) / RECORD
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**content, "folder": Path(folder), "losses": tuple(content["losses"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            fix = "Give a folder that labkit.training.finetune.train made."
            raise LabError(f"{path} is no record of a training: {error}.", fix) from error


def train(
    base: str | Path,
    conversations: Sequence[Messages],
    out: str | Path,
    *,
    rank: int = 16,
    alpha: float = 32,
    targets: str | Sequence[str] = "all-linear",
    dropout: float = 0.0,
    steps: int | None = None,
    batch: int | None = None,
    learning_rate: float | None = None,
    max_length: int = 2048,
    four_bit: bool = False,
    seed: int = 0,
) -> PeftTraining:
    """Train an adapter for the model in folder `base` on `conversations` and write it to `out`; shows progress.

    Each conversation is a list of {"role", "content"} whose last message is the assistant's. `alpha` / `rank` scales what the
    adapter adds. `targets` are module names, or every linear layer but the output head. Where `steps`, `batch` and
    `learning_rate` are left out, the size of the base decides (`SMALL`, `LARGE`). The same seed gives the same adapter, bit for
    bit, on the same machine without a GPU; on a GPU nearly so. `max_length` in tokens refuses what is longer, it does not cut.

    Leaves `base` as it is and choosing the best of several trainings to the caller. `out` appears whole or not at all. Raises,
    before anything is trained: `SettingError` (arguments, conversations, `out` in use, four_bit without bitsandbytes), other
    children of `LabError` for a base that is not whole, `NoSpace`; later `LabError` (a loss that is no number), `MemoryHeld` (the
    GPU is full).
    """
    source = require_model(base)
    target = require_empty(out, "labkit.training.finetune.PeftTraining.load(folder) reads an earlier training.")
    require_replies(conversations)
    defaults = SMALL if _weight_bytes(source) < SMALL_BYTES else LARGE
    settings = FinetuneSettings(
        steps=defaults.steps if steps is None else steps,
        batch=defaults.batch if batch is None else batch,
        learning_rate=defaults.learning_rate if learning_rate is None else learning_rate,
        rank=rank,
        alpha=alpha,
        targets=targets if isinstance(targets, str) else list(targets),
        dropout=dropout,
        max_length=max_length,
        four_bit=four_bit,
        seed=seed,
    )
    _require_sensible(settings)
    disk.require({target: min(MAX_ADAPTER_BYTES, _weight_bytes(source))})
    return _train(source, copied(conversations), target, settings)


def _train(base: Path, conversations: list[list[dict[str, str]]], out: Path, settings: FinetuneSettings) -> PeftTraining:
    started = time.monotonic()
    with draft(out, "training") as folder:
        request = FinetuneRequest(str(base), str(folder), conversations, settings)
        title, fields = f"Training {out.name}", asdict(request)
        answer = launch.run(SCRIPT, fields, title=title, total=settings.steps, unit="steps", environment=ENVIRONMENT)
        result = FinetuneResult(**answer)
        training = PeftTraining(
            folder=out,
            base=str(base),
            seconds=round(time.monotonic() - started, 1),
            conversations=len(conversations),
            digest=hashlib.sha256(json.dumps(conversations, ensure_ascii=False, sort_keys=True).encode()).hexdigest(),
            settings=asdict(settings),
            **{**asdict(result), "losses": tuple(result.losses)},
        )
        training.save(folder)
        card = f"# {out.name}\n\nA LoRA adapter for {base}, trained by labkit (training.json says how).\n"
        (folder / "README.md").write_text(card, encoding="utf-8")  # in place of PEFT's empty model card
    return training


def _weight_bytes(base: Path) -> int:
    return sum(file.stat().st_size for file in base.glob("*.safetensors"))


def _require_sensible(settings: FinetuneSettings) -> None:
    for name in ("rank", "steps", "batch", "max_length"):
        value = getattr(settings, name)
        if not isinstance(value, int) or value < 1:
            raise SettingError(f"{name} is {value!r}.", "Give a whole number, 1 or more.")
    if not settings.alpha > 0 or not settings.learning_rate > 0:
        raise SettingError(
            f"alpha is {settings.alpha!r}, learning_rate {settings.learning_rate!r}: an adapter that adds nothing.",
            "Give positive numbers.",
        )
    if not 0 <= settings.dropout < 1:
        raise SettingError(f"dropout is {settings.dropout!r}.", "Give a share from 0 to below 1.")
    if not settings.targets:
        raise SettingError("targets is empty.", 'Give "all-linear" or module names such as ["q_proj", "v_proj"].')
