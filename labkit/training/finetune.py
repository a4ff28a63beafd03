"""Trains a LoRA adapter on conversations with PEFT, in the vLLM environment, and says how it went.

    training = labkit.finetune.train(base, incidents.conversations("train", 512), out)
    training.figure()                    the loss
    Training.load(out)                   the same, another day

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
from typing import Any, Self

from ..common import disk
from ..common.errors import LabError, SettingError
from ..common.files import draft, require_empty
from ..evaluation.offline import PATIENT
from ..models.folders import require_model
from ..workers import launch
from . import record

SCRIPT = launch.SCRIPTS / "finetune_worker.py"
RECORD = "training.json"
SMALL_BYTES = 2 * 10**9
"""Weights of a base below which `SMALL` are the settings, else `LARGE`."""
SMALL = {"steps": 120, "batch": 8, "learning_rate": 4e-3}
LARGE = {"steps": 200, "batch": 8, "learning_rate": 1e-4}
"""What `train` takes where nothing is said: a few million parameters learn at a rate that would ruin a large model."""
ENVIRONMENT = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", **PATIENT}
"""Without the first, cuBLAS may sum in another order each time. (PyTorch, "Reproducibility".)"""
ROLES = ("system", "user", "assistant")
ROOM = 2 * 10**9
"""Bytes asked for where the adapter goes: rank 64 on every projection of an 8B model is 0.7 GB in fp32."""

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True, repr=False)
class Training(record.Training):
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
            raise LabError(f"{path} is no record of a training: {error}.", "Give a folder that labkit.finetune.train made.") from error


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
) -> Training:
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
    target = require_empty(out, "finetune.Training.load(folder) reads an earlier training.")
    _require_conversations(conversations)
    asked: dict[str, Any] = _defaults(source) | {
        name: value for name, value in {"steps": steps, "batch": batch, "learning_rate": learning_rate}.items() if value is not None
    }
    asked |= {"rank": rank, "alpha": alpha, "targets": targets if isinstance(targets, str) else list(targets), "dropout": dropout}
    asked |= {"max_length": max_length, "four_bit": four_bit, "seed": seed}
    _require_sensible(asked)
    disk.require({target: min(ROOM, _weight_bytes(source))})
    return _train(source, [[dict(message) for message in one] for one in conversations], target, asked)


def _train(base: Path, conversations: list[list[dict[str, str]]], out: Path, asked: dict[str, Any]) -> Training:
    started = time.monotonic()
    with draft(out, "training") as folder:
        request = {"base": str(base), "draft": str(folder), "conversations": conversations, **asked}
        told = launch.run(SCRIPT, request, title=f"Training {out.name}", total=asked["steps"], unit="steps", environment=ENVIRONMENT)
        told["losses"] = tuple(told["losses"])
        done = Training(
            folder=out,
            base=str(base),
            seconds=round(time.monotonic() - started, 1),
            conversations=len(conversations),
            digest=hashlib.sha256(json.dumps(conversations, ensure_ascii=False, sort_keys=True).encode()).hexdigest(),
            settings=asked,
            **told,
        )
        _write_words(folder, done)
    return done


def _write_words(folder: Path, done: Training) -> None:
    """The record, and in place of PEFT's empty model card what is known."""
    (folder / RECORD).write_text(json.dumps({**asdict(done), "folder": done.folder.name}, indent=1) + "\n", encoding="utf-8")
    card = f"# {done.folder.name}\n\nA LoRA adapter for {done.base}, trained by labkit (training.json says how).\n"
    (folder / "README.md").write_text(card, encoding="utf-8")


def _defaults(base: Path) -> dict[str, Any]:
    return dict(SMALL if _weight_bytes(base) < SMALL_BYTES else LARGE)


def _weight_bytes(base: Path) -> int:
    return sum(file.stat().st_size for file in base.glob("*.safetensors"))


def _require_conversations(conversations: Sequence[Messages]) -> None:
    if not conversations:
        raise SettingError("There are no conversations to learn from.", "Give a list of conversations, each a list of messages.")
    for number, one in enumerate(conversations):
        wrong = [message for message in one if message.get("role") not in ROLES or not isinstance(message.get("content"), str)]
        if wrong or len(one) < 2 or one[-1]["role"] != "assistant":
            what = f"its message {dict(wrong[0])!r} has no role and content" if wrong else "its last message is not the assistant's reply"
            raise SettingError(f"Conversation {number} cannot be learnt: {what}.", 'Messages are {"role": "user", "content": "..."}.')


def _require_sensible(asked: Mapping[str, Any]) -> None:
    for name in ("rank", "steps", "batch", "max_length"):
        if not isinstance(asked[name], int) or asked[name] < 1:
            raise SettingError(f"{name} is {asked[name]!r}.", "Give a whole number, 1 or more.")
    if not asked["alpha"] > 0 or not asked["learning_rate"] > 0:
        raise SettingError(
            f"alpha is {asked['alpha']!r}, learning_rate {asked['learning_rate']!r}: an adapter that adds nothing.",
            "Give positive numbers.",
        )
    if not 0 <= asked["dropout"] < 1:
        raise SettingError(f"dropout is {asked['dropout']!r}.", "Give a share from 0 to below 1.")
    if not asked["targets"]:
        raise SettingError("targets is empty.", 'Give "all-linear" or module names such as ["q_proj", "v_proj"].')
