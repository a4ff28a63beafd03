"""Files and folders that appear whole or not at all: written beside and renamed.

Covers: JSON and text files, files that only you may read, results that load again, folders. Does not cover: who may write at the
same time (`locks`), whether there is room (`disk`). The one home of "beside and renamed"; only the guards of a server, which import
nothing, have their own.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from .errors import LabError, SettingError

Result = TypeVar("Result")


def save(path: str | Path, content: object) -> Path:
    """Write `content` to `path`, whose folder is made if needed, and return it. A reader sees the old file or the new one."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def load(path: str | Path, read: Callable[[Any], Result], *, what: str, writer: str) -> Result:
    """What `read` makes of the content of `path`. Raises `LabError` ("... is no `what`", "... that `writer` wrote") if it cannot."""
    try:
        return read(json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LabError(f"{path} is no {what}: {error}.", f"Give a .json file that {writer} wrote.") from error


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
