"""The cache variables for every terminal: one managed block in ~/.bashrc, and the same in this process.

A terminal that does not know `HF_HOME` downloads 16 GB to the small system disk. The block stands between two marks, is added once,
changed in place, and can be removed; nothing else in the file is touched. Written beside and renamed, with the file's own
permissions; a symbolic link stays one.

Does not cover: terminals that are already open (`source ~/.bashrc` there), shells other than bash.
Used by notebook 01 and by whoever calls `labkit.persist()`.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from ..common.errors import SettingError
from ..common.files import beside
from ..common.settings import CACHES, settings

BEGIN, END = "# >>> labkit >>>", "# <<< labkit <<<"
NOTE = "# Managed by labkit (notebook 01). labkit.forget() removes it."


def variables() -> dict[str, str]:
    """What to persist: the data home, and each cache variable: as it is set now, else its folder under the data home."""
    config = settings()
    return {"LABKIT_HOME": str(config.home)} | {
        name: os.environ.get(name) or str(config.caches / folder) for name, folder in CACHES.items()
    }


def persist(values: Mapping[str, str] | None = None, file: Path | None = None) -> bool:
    """Write `values` (default: `variables()`) to the block in `file` (default: ~/.bashrc), and set them in this process.

    Returns whether the file changed. Raises `SettingError`, leaving the file as it was, when the block's marks are damaged or
    the file cannot be written.
    """
    chosen = variables() if values is None else dict(values)
    path = _target(file)
    before = _read(path)
    kept, position = _without_block(before, path)
    lines = [BEGIN, NOTE, *(f"export {name}={shlex.quote(value)}" for name, value in chosen.items()), END]
    head, tail = kept[:position], kept[position:]
    after = head + ("" if not head or head.endswith("\n") else "\n") + "\n".join(lines) + "\n" + tail
    _write(path, before, after)
    os.environ.update(chosen)
    return after != before


def forget(file: Path | None = None) -> bool:
    """Remove the block from `file` (default: ~/.bashrc); the variables of this process stay. Returns whether it was there."""
    path = _target(file)
    before = _read(path)
    after, _ = _without_block(before, path)
    _write(path, before, after)
    return after != before


def apply() -> dict[str, str]:
    """Set the missing variables in this process only, and return those that were set."""
    missing = settings().cache_environment()
    os.environ.update(missing)
    return missing


def _target(file: Path | None) -> Path:
    return (file or Path.home() / ".bashrc").resolve()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ""


def _without_block(text: str, path: Path) -> tuple[str, int]:
    """The text less the block, and where the block was (else the end)."""
    lines = text.splitlines(keepends=True)
    marks = [line.strip() for line in lines]
    if marks.count(BEGIN) == marks.count(END) == 0:
        return text, len(text)
    if marks.count(BEGIN) != 1 or marks.count(END) != 1 or marks.index(BEGIN) > marks.index(END):
        raise SettingError(
            f"The labkit block in {path} is damaged: its marks `{BEGIN}` and `{END}` are not one pair.",
            "Open the file, delete these lines and what labkit wrote between them, then run this again.",
        )
    head = "".join(lines[: marks.index(BEGIN)])
    return head + "".join(lines[marks.index(END) + 1 :]), len(head)


def _write(path: Path, before: str, after: str) -> None:
    if after == before:
        return
    try:
        with beside(path) as draft:
            draft.write_text(after, encoding="utf-8", errors="surrogateescape")
            if path.exists():
                shutil.copymode(path, draft)
    except OSError as error:
        raise SettingError(f"{path} cannot be written: {error.strerror}.", "Set the variables in each terminal yourself.") from None
