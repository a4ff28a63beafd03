"""How long each stage of a start should take: as long as the last start of the same engine and model on this machine."""

from __future__ import annotations

import json
from pathlib import Path

from ..common.settings import Settings, settings
from ..engines.engine import Engine
from .exits import write_json
from .registry import Record


def expected_seconds(engine: Engine, record: Record) -> list[float]:
    """Seconds of each stage: of the last start of this engine and model here, else the measured ones of its data."""
    history = _history().get(_history_key(record), {})
    gpu = record.device == "gpu"
    return [history.get(stage.name, 0.0 if history else (stage.gpu_seconds if gpu else stage.cpu_seconds)) for stage in engine.stages]


def remember(engine: Engine, record: Record) -> None:
    write_json(history_file(), _history() | {_history_key(record): dict(record.stages)})


def _history() -> dict[str, dict[str, float]]:
    try:
        content = json.loads(history_file().read_text())
    except (OSError, ValueError):
        return {}
    return {key: row for key, row in content.items() if isinstance(row, dict)} if isinstance(content, dict) else {}


def _history_key(record: Record) -> str:
    return f"{record.engine} {record.model} {record.device}"


def history_file(config: Settings | None = None) -> Path:
    """Seconds per stage of the last start of each engine and model on this machine."""
    return (config or settings()).state / "stages.json"
