"""The key of each server: random, in a file that only its owner may read, never printed. One key a server name.

A key is one that was made here: a file that is empty, cut, linked, somebody else's or readable by others is not taken for one, but
replaced before a start. An engine takes its key from its environment, or from a YAML file of its own where it knows no variable (SGLang).
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from ..common.errors import LabError
from ..common.files import PRIVATE, at_once, write_once, write_text
from ..common.settings import Settings, settings
from ..engines.engine import Engine

KEY = re.compile(r"sk-[A-Za-z0-9_-]{32,128}\n?")


def key_file(name: str, config: Settings | None = None) -> Path:
    """Where the key of server `name` lies: a 0600 file, made by `key`."""
    return (config or settings()).state / "keys" / f"{name}.key"


def key(name: str, config: Settings | None = None) -> str:
    """The key of server `name`, made at first use from 32 random bytes, and anew where the file does not hold one that was made here.

    Raises `LabError` where such a file cannot be replaced.
    """
    path = key_file(name, config)
    made = f"sk-{secrets.token_urlsafe(32)}"
    if path.is_dir() and not path.is_symlink():
        raise LabError(f"{path} is a folder, and the key of {name} belongs there.", f"Move it away: mv {path} {path}.old")
    try:
        _close(path.parents[1])
        found = read(path)
        if found is None and (path.exists() or path.is_symlink()):
            write_text(path, made, mode=PRIVATE)
        return found or write_once(path, made).strip()
    except OSError as error:
        raise LabError(
            f"The key file {path} cannot be written: {error.strerror or error}.", "It must be in a folder of yours, on a disk with room."
        ) from error


def _close(state: Path) -> None:
    """A folder of state that was made under a loose umask: whoever may write there could change the folder of keys."""
    with suppress(FileNotFoundError):
        status = state.stat()
        if status.st_uid == os.getuid() and status.st_mode & 0o022:
            state.chmod(0o700)


def read(path: Path) -> str | None:
    """The key in `path`, None unless it is one that was made here: a file of ours, for us alone, with a whole key in it."""
    try:
        with open(path, "rb", opener=lambda name, flags: at_once(name, flags | os.O_NOFOLLOW)) as stream:
            status = os.fstat(stream.fileno())
            content = stream.read(1024) if stat.S_ISREG(status.st_mode) else b""
    except (OSError, ValueError):
        return None
    text = content.decode(errors="replace")
    ours = status.st_uid == os.getuid() and not status.st_mode & 0o077
    return text.strip() if ours and KEY.fullmatch(text) else None


def digest(secret: str) -> str:
    """What a record keeps of a key: whether a file still holds it can be told, and nothing else."""
    return sha256(secret.encode()).hexdigest()[:16]


def started_with(name: str, path: Path, wanted: str) -> str:
    """The key in `path`, if it is the one whose digest the record of server `name` keeps as `wanted` ("": any). Raises `LabError`."""
    found = read(path)
    if found and (not wanted or digest(found) == wanted):
        return found
    there = "has a newer one" if found else "holds none of this kit's" if path.exists() else "is gone"
    raise LabError(
        f"The key that {name} was started with is lost: {path} {there}.",
        f"Stop it and start it again, and it gets a new one: ./lab down {name}.",
    )


def key_argv(engine: Engine, name: str, config: Settings | None = None) -> list[str]:
    """The flag of the file that holds the key, for an engine that takes it from no variable (the file is written here), and of the
    middleware that asks for it on every route, for an engine that needs one."""
    argv = ["--middleware", engine.middleware] if engine.middleware else []
    if not engine.key_flag:
        return argv
    path = key_file(name, config).with_suffix(".yaml")
    write_text(path, f"api-key: {key(name, config)}\n", mode=PRIVATE)
    return [*argv, f"--{engine.key_flag}", str(path)]


def key_environment(engine: Engine, name: str, config: Settings | None = None) -> dict[str, str]:
    """The variable that holds the key, for an engine that takes it from one."""
    return {engine.key_variable: key(name, config)} if engine.key_variable else {}
