"""A result as a JSON file: written beside and renamed, read back with an error that names the file.

Covers: results that people keep and read. Does not cover: the kit's own records of servers (`supervisor.write_json`), which are
not for reading. Used by notebooks 03, 04 and 06 through `bench` and `comparison`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from .errors import LabError

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
