"""Files and folders that appear whole or not at all: written beside and renamed.

Covers: JSON and text files, files that only you may read, results that load again, folders. Does not cover: who may write at the
same time (`locks`), whether there is room (`disk`). The one home of "beside and renamed"; only the guards of a server, which import
nothing, have their own.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from .errors import LabError, SettingError

Result = TypeVar("Result")
PRIVATE = 0o600


def read_json(path: Path) -> Any:
    """The content of the JSON file `path`; None where there is none that can be read, for any reason: no file, another kind of one (nobody
    waits for the writer of a pipe), no JSON, nested deeper than Python goes."""
    try:
        with open(path, "rb", opener=at_once) as stream:
            return json.loads(stream.read()) if stat.S_ISREG(os.fstat(stream.fileno()).st_mode) else None
    except (OSError, ValueError, RecursionError):
        return None


def at_once(path: str, flags: int) -> int:
    """An opener for open(): does not wait where `path` turns out to be a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def remove(path: Path) -> None:
    """Remove whatever lies at `path`, a folder too; no error if nothing does."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make `folder`, and those above it, where they are missing. Only its owner may write there, whatever the umask: whoever else may
    could put a key or a model of his in place."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(mode=0o755, exist_ok=True)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, which becomes `path` when the block ends well and is removed when it does not.

    The folder of `path` is made if needed. A reader sees the old file or the new one.
    """
    make_folder(path.parent)
    made = path.with_name(f".{path.name}.{os.getpid()}")
    made.unlink(missing_ok=True)
    try:
        yield made
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, mode: int = 0o666) -> Path:
    """Write `text` whole or not at all and return `path`; `mode` as for open(2), PRIVATE for what only you may read."""
    with beside(path) as made, os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as stream:
        stream.write(text)
    return path


def write_once(path: Path, text: str) -> str:
    """The text of the private file `path`, which is `text` if there was none. Of several writers the first counts.

    A folder that has to be made is its owner's alone.
    """
    make_folder(path.parent.parent)
    path.parent.mkdir(exist_ok=True, mode=0o700)
    if not path.exists():
        made = path.with_name(f".{path.name}.{os.getpid()}")
        write_text(made, text, mode=PRIVATE)
        try:
            os.link(made, path)
        except FileExistsError:
            pass  # another process was first
        finally:
            made.unlink()
    return path.read_text(encoding="utf-8")


def point(link: Path, target: Path) -> None:
    """Make `link` a symbolic link to the folder `target`, in one step: who opens it finds the old place or the new one."""
    with beside(link) as made:
        made.symlink_to(target, target_is_directory=True)


def save(path: str | Path, content: object) -> Path:
    """Write `content` as JSON to `path`, whose folder is made if needed, and return it. A reader sees the old file or the new one."""
    return write_text(Path(path), json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def load(path: str | Path, read: Callable[[Any], Result], *, what: str, writer: str) -> Result:
    """What `read` makes of the content of `path`. Raises `LabError` ("... is no `what`", "... that `writer` wrote") if it cannot."""
    try:
        return read(json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
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
