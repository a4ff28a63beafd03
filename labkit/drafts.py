"""Folders that appear whole or not at all: written beside, under a hidden name, and renamed.

Covers: refusing a place that is taken, the draft, what a killed process left. Does not cover: single files, going on from a draft
(`lora.merging` does that). Used by notebook 06 through `llamafactory` and `verl`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import SettingError


def require_empty(out: str | Path, why: str = "") -> Path:
    """`out`, made absolute. Raises `SettingError` unless it is an empty folder or not there; `why` is a sentence for the reader."""
    chosen = Path(out).expanduser().absolute()
    if chosen.exists() and (not chosen.is_dir() or any(chosen.iterdir())):
        cause = f"{chosen} is {'not empty' if chosen.is_dir() else 'no folder'}."
        raise SettingError(f"{cause} {why}".strip(), "Give another folder, or remove it.")
    return chosen


@contextmanager
def draft(out: Path, what: str) -> Iterator[Path]:
    """An empty folder beside `out` that becomes `out` when the block ends well, and is removed when it does not.

    `what` is part of its name. Drafts of the same name whose process is gone are removed first.
    """
    stem = f".{out.name}.{what}-"
    for left in out.parent.glob(f"{stem}*"):
        owner = left.name.removeprefix(stem)
        if owner == str(os.getpid()) or not Path("/proc", owner).exists():
            shutil.rmtree(left, ignore_errors=True)
    made = out.with_name(f"{stem}{os.getpid()}")
    made.mkdir(parents=True)
    try:
        yield made
        made.rename(out)
    finally:
        shutil.rmtree(made, ignore_errors=True)
