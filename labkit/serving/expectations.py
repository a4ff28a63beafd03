"""How long each stage of a start should take: as long as the last start of the same engine and model on the same card of this machine."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ..common.files import read_json
from ..common.settings import Settings, settings
from ..engines.engine import Engine
from ..machine.gpu import find
from .exits import write_json
from .registry import Record

LONGEST = 1e6
"""Seconds; a stage that took longer is none."""


def expected_seconds(engine: Engine, record: Record) -> list[float]:
    """Seconds of each stage: of the last start of this engine and model here, else the measured ones of its data."""
    history = _history().get(_history_key(record), {})
    gpu = record.device == "gpu"
    return [history.get(stage.name, 0.0 if history else (stage.gpu_seconds if gpu else stage.cpu_seconds)) for stage in engine.stages]


def remember(engine: Engine, record: Record) -> None:
    """Keep the stages of `record` for the next start. Where that cannot be written the measured ones go on counting."""
    with suppress(OSError):
        write_json(history_file(), _history() | {_history_key(record): dict(record.stages)})


def _history() -> dict[str, dict[str, float]]:
    content = read_json(history_file())
    rows = content.items() if isinstance(content, dict) else ()
    return {key: row for key, row in rows if isinstance(row, dict) and all(map(_is_duration, row.values()))}


def _is_duration(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < LONGEST


def _history_key(record: Record) -> str:
    """A home on a shared disk outlives the card: what an H200 took says nothing of a 3090."""
    cards = sorted({device.name for device in find(record.gpus)})
    return " ".join([record.engine, record.model, record.device, *cards])


def lateness(elapsed: float, expected: float) -> str:
    """What to say, behind the stage, of a start that takes longer than was expected; "" before that."""
    if elapsed <= expected or not expected:
        return ""
    return " (longer than expected: a cold disk, another card, or kernels that are compiled for the first time)"


def history_file(config: Settings | None = None) -> Path:
    """Seconds per stage of the last start of each engine and model on this machine."""
    return (config or settings()).state / "stages.json"
