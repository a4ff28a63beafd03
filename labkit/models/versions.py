"""Which model folder is served under a name, which one was before it, and the way back in one call.

    promote(folder, "aiops")     this folder is the version from now on; the one before is kept
    rollback("aiops")            the one before is the version again
    current("aiops")             the version, and `link`, the path to serve
    history("aiops")             every step, and which folders are still there

Under `models/served/NAME` of the data home lie history.json, which decides, and `current`, a symbolic link that follows it
and is replaced in one rename, so that who opens it finds the old model or the new one, never none and never a mixed one.
Folders are neither copied nor deleted. An engine reads its model once, when it starts: after a change, start it again.

Covers: one machine. Does not cover: moving traffic between two running servers. Used by notebook 06.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..common import files, tables
from ..common.errors import LabError, SettingError
from ..common.locks import locked
from ..common.settings import settings
from .folders import require_model

LINK, JOURNAL, LOCK = "current", "history.json", ".lock"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PROMOTE, ROLLBACK = "promote", "rollback"


@dataclass(frozen=True)
class Version:
    """One step in the history of `name`: `event` is "promote" or "rollback", `at` the local time of it.

    `number` counts promotions; a rollback carries the number that it went back to. `digest` stands for names, sizes and times
    of change of the model's files: whoever writes into a promoted folder is found out.
    """

    name: str
    number: int
    folder: Path
    event: str
    at: str
    digest: str

    @property
    def link(self) -> Path:
        """The path to serve: it leads to whichever version is current when the engine starts."""
        return _folder(self.name) / LINK

    @property
    def state(self) -> str:
        """ "there", "changed" (written into since it was promoted) or "gone"."""
        if not (self.folder / "config.json").is_file():
            return "gone"
        return "there" if _digest(self.folder) == self.digest else "changed"

    def __str__(self) -> str:
        return f"{self.name} version {self.number}: {self.folder}"


@dataclass(frozen=True, repr=False)
class History:
    """Every step of one name, oldest first; `current` is the version that stands now."""

    name: str
    steps: tuple[Version, ...]

    @property
    def current(self) -> Version:
        return self.steps[-1]

    @property
    def kept(self) -> tuple[Version, ...]:
        """The versions that `rollback` can still reach, oldest first, without the current one."""
        return _standing(self.steps)[:-1]

    def rows(self) -> list[list[str]]:
        """The table as text, heading first."""
        rows = [[str(step.number), step.event, step.at, str(step.folder), step.state] for step in self.steps]
        rows[-1][-1] += ", current"
        return [["version", "what", "when", "folder", "its folder is"], *rows]

    def __str__(self) -> str:
        return tables.plain(self.rows())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return tables.as_html(self.rows(), f"{self.name}: serve {self.current.link}")


def promote(folder: str | Path, name: str) -> Version:
    """Make `folder` the current version of `name`; the version before it stays where it is. Returns the version.

    A folder that is current already and unchanged is left as it is. Leaves restarting the engine to the caller. Raises, before
    anything is changed, `LabError` children for a name with other signs than letters, digits and ._- and for a folder that is
    no whole model (config, tokenizer, index, shards: headers are read, weights are not).
    """
    _require_name(name)
    chosen = require_model(folder)
    with locked(_folder(name) / LOCK):
        steps = _read(name)
        digest = _digest(chosen)
        standing = _standing(steps)
        if standing and (standing[-1].folder, standing[-1].digest) == (chosen, digest):
            return _follow(standing[-1])
        number = max((step.number for step in steps), default=0) + 1
        return _commit(steps, Version(name, number, chosen, PROMOTE, _now(), digest))


def rollback(name: str) -> Version:
    """Go back to the version before the current one, and return it; again, and it goes one further back.

    Raises `LabError`, leaving everything as it is, when there is no earlier version, or when its folder is gone or was written
    into since it was promoted.
    """
    history(name)
    with locked(_folder(name) / LOCK):
        steps = _read(name)
        standing = _standing(steps)
        if len(standing) < 2:
            raise LabError(f"{standing[0]} is the first version of {name!r}: there is none before it.", "Promote another folder.")
        before = standing[-2]
        _require_unchanged(before)
        return _commit(steps, Version(name, before.number, before.folder, ROLLBACK, _now(), before.digest))


def current(name: str) -> Version:
    """The version that stands. Raises `LabError` when `name` has none, or when its folder is gone or was written into."""
    history(name)
    with locked(_folder(name) / LOCK):
        version = _read(name)[-1]
        _require_unchanged(version)
        return _follow(version)


def history(name: str) -> History:
    """Every step of `name`, with the state of each folder as it is now. Raises `LabError` when there is none."""
    steps = _read(name)
    if not steps:
        raise LabError(f"Nothing was promoted as {name!r}.", f'labkit.models.promote(folder, "{name}") makes a folder its first version.')
    return History(name, tuple(steps))


def _standing(steps: Sequence[Version]) -> tuple[Version, ...]:
    """The versions on which the current one stands, itself last: a promotion puts one on top, a rollback takes it off."""
    standing: list[Version] = []
    for step in steps:
        if step.event == PROMOTE:
            standing.append(step)
        else:
            standing.pop()
    return tuple(standing)


def _commit(steps: list[Version], step: Version) -> Version:
    """Write the history, which decides, then let the link follow: killed in between, the next call sets it right."""
    rows = [{**asdict(row), "folder": str(row.folder)} for row in [*steps, step]]
    files.save(_folder(step.name) / JOURNAL, {"version": 1, "steps": rows})
    return _follow(step)


def _follow(version: Version) -> Version:
    if not version.link.is_symlink() or os.readlink(version.link) != str(version.folder):
        files.point(version.link, version.folder)
    return version


def _read(name: str) -> list[Version]:
    _require_name(name)
    path = _folder(name) / JOURNAL
    if not path.exists():
        return []
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["steps"]
        steps = [Version(**{**row, "folder": Path(row["folder"])}) for row in rows]
        _standing(steps)[-1]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise LabError(f"{path} cannot be read: {error!r}.", "Delete it and promote the folder that is to be served.") from error
    return steps


def _require_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise SettingError(f"{name!r} is no name for a served model.", 'Use letters, digits, ".", "_" and "-": promote(folder, "aiops").')


def _require_unchanged(version: Version) -> None:
    state = version.state
    if state == "gone":
        raise LabError(
            f"The folder of {version} is gone.", f'Promote one that is there; labkit.models.history("{version.name}") lists them.'
        )
    if state == "changed":
        raise LabError(
            f"{version} was written into since it was promoted at {version.at}: it is another model now.",
            f'If it is meant as it is, labkit.models.promote("{version.folder}", "{version.name}") makes it a version of its own.',
        )


def _digest(folder: Path) -> str:
    """Stands for the model's files without reading gigabytes."""
    parts = sorted([*folder.glob("*.json"), *folder.glob("*.safetensors"), *folder.glob("*.jinja")])
    states = [(part.name, part.stat().st_size, part.stat().st_mtime_ns) for part in parts]
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()


def _folder(name: str) -> Path:
    return settings().models / "served" / name


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
