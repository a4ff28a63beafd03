"""The processes of this machine by /proc: parents, sessions, start times. Standard library only: the guards use it too.

A process is named by pid *and* start time, because pids come back.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

MARK = "LABKIT_SERVER"
"""The variable that an engine hands on to all that it starts. setproctitle would write titles over it: SPT_NOENV forbids that."""
STATES = {"D": "uninterruptible, in the driver or the disk", "T": "stopped", "t": "traced", "Z": "dead, not collected"}


class Row(NamedTuple):
    """One process. `state` is the kernel's letter, `started` in clock ticks since boot."""

    pid: int
    parent: int
    state: str
    session: int
    started: int

    @property
    def alive(self) -> bool:
        """Whether it is more than a dead entry that its parent has not collected."""
        return self.state != "Z"


def process_row(pid: int) -> Row | None:
    """The row of `pid`, None if there is no such process. The name may hold spaces: fields count from ')'."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return Row(pid, int(fields[1]), fields[0], int(fields[3]), int(fields[19]))


def process_table() -> list[Row]:
    """Every process that can be read."""
    rows = (process_row(int(entry)) for entry in os.listdir("/proc") if entry.isdigit())
    return [row for row in rows if row]


def descendants(root: int) -> list[int]:
    """All live processes below `root`, by parent.

    Zombies are not counted, but what is below them is: a process whose first thread has ended before its others shows as a
    zombie, and its children still name it as their parent.
    """
    children: dict[int, list[Row]] = {}
    for row in process_table():
        children.setdefault(row.parent, []).append(row)
    found, front = [], [root]
    while front:
        rows = [row for parent in front for row in children.get(parent, [])]
        found += rows
        front = [row.pid for row in rows]
    return [row.pid for row in found if row.alive]


def marked(mark: str) -> list[int]:
    """Live processes of this user that were started with `mark` as `MARK` in their environment, and whatever they forked."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for row in process_table():
        with suppress(OSError):  # gone meanwhile, or somebody else's
            if row.alive and wanted in Path(f"/proc/{row.pid}/environ").read_bytes().split(b"\0"):
                found.append(row.pid)
    return found


def commanded(word: str) -> list[int]:
    """Live processes of this user that have `word` as an argument of their own command line."""
    return [pid for pid, words in _commands() if word in words]


def commanded_within(folder: str) -> list[str]:
    """The arguments below `folder` in the command lines of this user's live processes."""
    return [word for _, words in _commands() for word in words if word.startswith(f"{folder}/")]


def _commands() -> Iterator[tuple[int, list[str]]]:
    for row in process_table():
        with suppress(OSError):
            if row.alive and Path(f"/proc/{row.pid}").stat().st_uid == os.getuid():
                yield row.pid, os.fsdecode(Path(f"/proc/{row.pid}/cmdline").read_bytes()).split("\0")


def is_alive(pid: int, started: int) -> bool:
    """Whether `pid` is still the process that began at `started`."""
    row = process_row(pid) if pid else None
    return row is not None and row.alive and row.started == started


def resident_bytes(pids: Iterable[int]) -> int:
    """Resident memory of those of `pids` that are there."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total


def start_ticks(pid: int) -> int:
    """When `pid` began, in clock ticks since boot; 0 if it is gone."""
    row = process_row(pid)
    return row.started if row else 0


def describe(pids: Iterable[int]) -> tuple[str, ...]:
    """Each live process of `pids` with the state that it is in: "pid 4711 (state D: uninterruptible, ...)"."""
    rows = [row for pid in pids if (row := process_row(pid))]
    return tuple(f"pid {row.pid} (state {row.state}{': ' + STATES[row.state] if row.state in STATES else ''})" for row in rows)


def signal_process(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
