"""What is known of each server on disk, and whether it is still true: the memory behind `ps`, `attach` and the next start.

One folder per server under Settings.state: server.json (what was started), pids.json and exit.json (written by the guards).
A server object belongs to one start, which `created_at` names: what another start under the same name writes is not its own.
Records outlive an upgrade in both directions: fields that a labkit does not know are ignored, those that are missing have defaults,
and FORMAT grows only when a field changes its meaning.

Covers: records, status, the processes of a server. Does not cover: starting and stopping (`server`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

from ..common.files import make_folder, read_json, remove
from ..common.refusals import told
from ..common.settings import Settings, settings
from .exits import ENDING, ROOM, Exit, write_ending, write_json
from .process_table import commanded, commanded_within, descendants, is_alive, marked, process_row, process_table

RECORD, SPEC = "server.json", "spec.json"
FORMAT = 2
"""1, which no file says: without `gpus`."""
LAST_SECOND, LAST_NUMBER = 1e11, 2**63
"""Whatever is beyond them was never a time, or a number of ours."""


@dataclass
class Record:
    """What was started and how far it came. Times are seconds since the epoch.

    `gpus` are the UUIDs of the GPUs it was given, [] without one and in records of format 1; `baseline` is bytes in use on each of
    them before the start.
    """

    name: str
    engine: str
    command: list[str]
    shown: str
    port: int
    model: str
    source: str
    key_file: str
    out: str
    err: str
    owner: str
    device: str
    gpus: list[str] = field(default_factory=list)
    watcher: int = 0
    watcher_started: int = 0
    created_at: float = 0.0
    ready_at: float = 0.0
    stages: list[tuple[str, float]] = field(default_factory=list)
    baseline: list[int] = field(default_factory=list)
    key_digest: str = ""
    mark: str = ""
    """That of its processes (`exits.Spec`)."""
    format: int = FORMAT

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The record that any labkit wrote as `content`. Raises TypeError for what is missing in it or of another type."""
        known = {"format": 1, **_known(cls, content)}
        if not 0 < known.get("port", 0) < 65536:
            raise TypeError(f"port is {known.get('port')!r}")
        return cls(**{**known, "stages": [tuple(stage) for stage in known.get("stages", [])]})


@dataclass(frozen=True)
class Status:
    """`state`: "starting", "ready", "stopping" (from before the first signal), "stray" (guards dead, engine processes left), "damaged"
    (it runs, its record cannot be read) or "ended"; `note` says more."""

    state: str
    note: str = ""

    @property
    def alive(self) -> bool:
        """Whether processes of the server exist."""
        return self.state != "ended"


class ServerFolder:
    """One server's folder: its record, the guards' notes, its processes."""

    def __init__(self, name: str, config: Settings | None = None) -> None:
        self.folder = (config or settings()).state / "servers" / name
        self.name = name
        self.own: Record | None = None
        """The record of the only start that counts; None: whichever is the last."""

    def of(self, record: Record) -> ServerFolder:
        """The same folder for the start of `record` alone: empty for it as soon as another start has taken the name. What is lost or
        damaged of its files then hides nothing."""
        bound = ServerFolder(self.name)
        bound.folder, bound.own = self.folder, record
        return bound

    @property
    def record(self) -> Record | None:
        """What was started last under this name, None if nothing ever was or what was written cannot be read or is another server's."""
        content = self._read(RECORD)
        try:
            record = Record.from_json(content) if content else None
        except (TypeError, ValueError):
            record = None
        if record and record.name == self.name and self._is_of_this_start(record.mark):
            return record
        return self.own if self.own and self._is_the_last() else None

    @property
    def exit(self) -> Exit | None:
        """How it ended, None while it runs or if nobody lived to write it down."""
        content = self._read("exit.json")
        try:
            ended = Exit(**_known(Exit, content)) if content else None
        except (TypeError, ValueError):
            return None
        return ended if ended and self._is_of_this_start(ended.mark) else None

    @property
    def engine_pid(self) -> int:
        """The pid of the engine's first process, 0 before there is one."""
        return self._pids().get("engine", 0)

    def save(self, record: Record) -> None:
        """Write `record`, unless another start than the one that counts here has taken the name."""
        if self.own and self.record is None:
            return
        with told():
            make_folder(self.folder.parent)
            self.folder.mkdir(exist_ok=True, mode=0o700)
            write_json(self.folder / RECORD, asdict(record))

    def forget(self) -> None:
        """Remove the traces of the last run, so that they are not taken for those of the next."""
        for name in (RECORD, SPEC, "pids.json", "exit.json", ENDING, ROOM):
            remove(self.folder / name)

    def mark_ending(self) -> None:
        """From now on it counts as stopping. On a full disk the guards' own word has to do."""
        write_ending(self.folder, "stopped", self._mark())

    def guards(self) -> list[int]:
        """The pids of watcher and keeper that are alive; by their command line where no record names them."""
        record, pids = self.record, self._pids()
        named = [(pids.get(who, 0), pids.get(f"{who}_started", 0)) for who in ("watcher", "keeper")]
        if record:
            named[0] = (record.watcher, record.watcher_started)
        found = [pid for pid, started in named if is_alive(pid, started)]
        if not found and (not record.watcher if record else self.own is None):
            return commanded(str(self.folder / SPEC))
        return found

    def processes(self) -> list[int]:
        """The engine's live processes: everything below the guards; without guards what bears the engine's mark, is in its session, or
        was left by the guards as unkillable."""
        guards = self.guards()
        below = {pid for guard in guards for pid in descendants(guard)} - {*guards, self._pids().get("sentry", 0)}
        ended = self.exit
        unkillable = {pid for pid, started in (ended.left if ended else ()) if is_alive(pid, started)}
        return sorted(below | (set() if guards else self._astray()) | set(self._session()) | unkillable)

    def status(self) -> Status:
        """The truth now, from the process table and not from what was once written."""
        record, ended = self.record, self.exit
        guards = self.guards()
        if record is None:
            return self._without_record(guards)
        if guards and ended is None and not self._is_ending():
            return Status("ready" if record.ready_at else "starting")
        left = self.processes()
        if left or (guards and ended is None):
            return Status("stopping" if guards else "stray", f"{len(left)} processes: {', '.join(map(str, left))}")
        if ended is None:
            return Status("ended", "killed together with its guards")
        return Status("ended", _how(ended))

    def _without_record(self, guards: list[int]) -> Status:
        if self.own:
            return Status("ended", "another start has taken its name")
        pids = guards + self.processes()
        if pids:
            return Status("damaged", f"its record is lost or cannot be read; pids {', '.join(map(str, pids))}")
        return Status("ended", "its record cannot be read" if os.path.lexists(self.folder / RECORD) else "never started")

    def _astray(self) -> set[int]:
        """Live processes that bear the mark of the last start."""
        mark = self._mark()
        return set(marked(mark)) if mark else set()

    def _is_ending(self) -> bool:
        """Whether the end of this start, and of no other, has been begun."""
        content = self._read(ENDING)
        return content is not None and "reason" in content and self._is_of_this_start(content.get("mark"))

    def _is_of_this_start(self, mark: object) -> bool:
        """Whether `mark` is that of the last start; one that is not known is nobody else's."""
        return not mark or not self._mark() or mark == self._mark()

    def _mark(self) -> str:
        """What the processes of the last start bear in their environment; "" where it is not known."""
        mark = (self._read(SPEC) or {}).get("mark")
        return mark if isinstance(mark, str) and mark.isalnum() else ""

    def _session(self) -> list[int]:
        """Live processes in the session that the engine leads, unless the pid has since been given to somebody else."""
        pids = self._pids()
        engine, started = pids.get("engine", 0), pids.get("engine_started", 0)
        if not engine:
            return []
        leader = process_row(engine)
        if leader and leader.started != started:
            return []
        return [row.pid for row in process_table() if row.session == engine and row.alive and row.started >= started]

    def _pids(self) -> dict[str, int]:
        """The guards' pids.json: pid and start time of watcher, keeper and engine."""
        return {name: value for name, value in (self._read("pids.json") or {}).items() if _fits(value, int)}

    def _read(self, name: str) -> dict[str, Any] | None:
        content = self._load(name)
        return content if content is None or self._is_the_last() else None

    def _is_the_last(self) -> bool:
        """Whether no other start has taken the name of the one that counts."""
        if self.own is None:
            return True
        created = (self._load(RECORD) or {}).get("created_at")
        spec = (self._load(SPEC) or {}).get("mark")
        if created == self.own.created_at or (self.own.mark and spec == self.own.mark):
            return True
        return created is None and is_alive(self.own.watcher, self.own.watcher_started)

    def _load(self, name: str) -> dict[str, Any] | None:
        content = read_json(self.folder / name)
        return content if isinstance(content, dict) else None


def entries(config: Settings | None = None) -> list[ServerFolder]:
    """All servers that were ever started here, by name; also one whose folder is gone while its guards run."""
    folder = (config or settings()).state / "servers"
    known = {path.name for path in folder.glob("*") if any(os.path.lexists(path / name) for name in (RECORD, SPEC))}
    guarded = {path.parent.name for path in map(Path, commanded_within(str(folder))) if path.name == SPEC}
    return [ServerFolder(name, config) for name in sorted(known | guarded)]


def alive() -> list[tuple[ServerFolder, Record]]:
    """The servers that have live processes, with their records."""
    found = [(entry, entry.record) for entry in entries()]
    return [(entry, record) for entry, record in found if record and entry.status().alive]


def _known(kind: type, content: Mapping[str, Any]) -> dict[str, Any]:
    """What of `content` are fields of the dataclass `kind`. Raises TypeError for one of another type."""
    found = {name: (hint, content[name]) for name, hint in get_type_hints(kind).items() if name in content}
    for name, (hint, value) in found.items():
        if not _fits(value, hint):
            raise TypeError(f"{name} is {value!r}")
    return {name: value for name, (_, value) in found.items()}


def _fits(value: Any, hint: Any) -> bool:
    """Whether `value`, as JSON brings it, is what the type `hint` says, down to its last part, and something that can be used: no text
    that no file or terminal takes, no time out of the world."""
    parts = get_args(hint)
    if isinstance(hint, UnionType):
        return any(_fits(value, part) for part in parts)
    if get_origin(hint) in (list, tuple):
        fixed = get_origin(hint) is tuple and parts[-1] is not ...
        inner = parts if fixed else parts[:1] * len(value) if isinstance(value, list) else ()
        return isinstance(value, list) and len(value) == len(inner) and all(map(_fits, value, inner))
    if hint is str:
        return isinstance(value, str) and "\0" not in value and not any("\ud800" <= char <= "\udfff" for char in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LAST_SECOND  # NaN is not
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LAST_NUMBER
    return isinstance(value, hint)


def _how(ended: Exit) -> str:
    code = f", exit code {ended.code}" if ended.code is not None else ""
    return f"{ended.reason}{code}" + (f": {ended.error}" if ended.error else "")
