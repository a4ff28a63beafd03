"""What is known of each server on disk, and whether it is still true: the memory behind `ps`, `attach` and the next start.

One folder per server under Settings.state: server.json (what was started), pids.json and exit.json (written by the
guards), lock. A process is named by pid *and* start time, because pids come back.

Covers: records, status, the processes of a server. Does not cover: starting and stopping (`server`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from ..common.settings import Settings, settings
from .supervisor import Exit, descendants, process_row, process_table, write_json


@dataclass
class Record:
    """What was started and how far it came. Times are seconds since the epoch, memory is bytes per GPU."""

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
    watcher: int = 0
    watcher_started: int = 0
    created_at: float = 0.0
    ready_at: float = 0.0
    stages: list[tuple[str, float]] = field(default_factory=list)
    baseline: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Status:
    """`state`: "starting", "ready", "stopping", "stray" (guards dead, engine processes left) or "ended"; `note` says more."""

    state: str
    note: str = ""

    @property
    def alive(self) -> bool:
        """Whether processes of the server exist."""
        return self.state != "ended"


class ServerFolder:
    """One server's folder: its record, the guards' notes, its processes."""

    def __init__(self, name: str, where: Settings | None = None) -> None:
        self.folder = (where or settings()).state / "servers" / name
        self.name = name

    @property
    def record(self) -> Record | None:
        """What was started last under this name, None if nothing ever was."""
        content = self._read("server.json")
        return Record(**{**content, "stages": [tuple(stage) for stage in content["stages"]]}) if content else None

    @property
    def exit(self) -> Exit | None:
        """How it ended, None while it runs or if nobody lived to write it down."""
        content = self._read("exit.json")
        return Exit(**content) if content else None

    @property
    def engine_pid(self) -> int:
        """The pid of the engine's first process, 0 before there is one."""
        return int((self._read("pids.json") or {}).get("engine", 0))

    def save(self, record: Record) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_json(self.folder / "server.json", asdict(record))

    def forget(self) -> None:
        """Remove the traces of the last run, so that they are not taken for those of the next."""
        for name in ("server.json", "pids.json", "exit.json"):
            (self.folder / name).unlink(missing_ok=True)

    def guards(self) -> list[int]:
        """The pids of watcher and keeper that are alive."""
        record, pids = self.record, self._read("pids.json") or {}
        named = [(record.watcher, record.watcher_started)] if record else []
        named += [(pids.get("keeper", 0), pids.get("keeper_started", 0))]
        return [pid for pid, started in named if is_alive(pid, started)]

    def processes(self) -> list[int]:
        """The engine's live processes: everything below the guards and everything in the engine's session."""
        guards = self.guards()
        below = {pid for guard in guards for pid in descendants(guard)} - set(guards)
        return sorted(below | set(self._session()))

    def status(self) -> Status:
        """The truth now, from the process table and not from what was once written."""
        record, ended = self.record, self.exit
        if record is None:
            return Status("ended", "never started")
        if self.guards() and ended is None:
            return Status("ready" if record.ready_at else "starting")
        if left := self.processes():
            return Status("stopping" if self.guards() else "stray", f"{len(left)} processes: {', '.join(map(str, left))}")
        if ended is None:
            return Status("ended", "killed together with its guards")
        return Status("ended", _how(ended))

    def _session(self) -> list[int]:
        """Live processes in the session that the engine leads, unless the pid has since been given to somebody else."""
        pids = self._read("pids.json")
        if not pids or not pids["engine"]:
            return []
        leader = process_row(pids["engine"])
        if leader and leader[4] != pids["engine_started"]:
            return []
        return [row[0] for row in process_table() if row[3] == pids["engine"] and row[2] != "Z" and row[4] >= pids["engine_started"]]

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            content: dict[str, Any] = json.loads((self.folder / name).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return content


def entries(where: Settings | None = None) -> list[ServerFolder]:
    """All servers that were ever started here, by name."""
    folder = (where or settings()).state / "servers"
    return [ServerFolder(path.name, where) for path in sorted(folder.glob("*")) if (path / "server.json").exists()]


def is_alive(pid: int, started: int) -> bool:
    """Whether `pid` is still the process that began at `started` (clock ticks since boot), and no zombie."""
    row = process_row(pid) if pid else None
    return row is not None and row[4] == started and row[2] != "Z"


def start_ticks(pid: int) -> int:
    """When `pid` began, in clock ticks since boot; 0 if it is gone."""
    row = process_row(pid)
    return row[4] if row else 0


def _how(ended: Exit) -> str:
    code = f", exit code {ended.code}" if ended.code is not None else ""
    return f"{ended.reason}{code}" + (f": {ended.error}" if ended.error else "")
