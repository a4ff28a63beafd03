"""What the guards are told and what they write down: the command to run, the way it ended. Standard library only.

Covers: files that appear whole, and the last of them also on a disk that has become full. Does not cover: who reads them (`registry`).
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

ROOM, ROOM_BYTES = "exit.room", 4096
"""A file that holds the place of exit.json: on a disk that has become full it is written over."""
SWEEP_SECONDS = 0.05
KILL_SECONDS = 10.0
"""How long SIGKILL gets to work. A process that hangs in a driver does not die before the driver lets it go."""
ENDING = "ending.json"
"""Written before the first signal of a stop: from then on the server counts as stopping."""


@dataclass(frozen=True)
class Spec:
    """What to run: an argument list, where its output goes, where the guards write, how long SIGTERM gets to work.

    `mark` stands in the environment of the engine and of all that it starts, and in nobody else's: whoever forks away from under the
    guards is known by it (`process_table.marked`).
    """

    command: list[str]
    folder: str
    stdout: str
    stderr: str
    grace_seconds: float = 20.0
    mark: str = ""

    def path(self, name: str) -> Path:
        """A file of this server's own folder."""
        return Path(self.folder) / name


@dataclass(frozen=True)
class Exit:
    """How a server ended. `code` is the engine's exit code (negative: that signal), None if nobody saw it.

    `reason`: "exited" by itself, "stopped" on request, "owner gone" (kernel died), "watcher died", "keeper died", "guards died" (both
    at once) or "not started". `killed` counts processes that SIGTERM did not end, `left` has those that SIGKILL did not end either, as
    (pid, start time in clock ticks). Times are seconds since the epoch.
    """

    code: int | None
    reason: str
    ended_at: float
    seconds: float = 0.0
    killed: int = 0
    error: str = ""
    left: tuple[tuple[int, int], ...] = ()
    mark: str = ""
    """Whose end it is (`Spec.mark`)."""


def write_json(path: Path, content: object) -> None:
    """Write beside and rename: a reader sees the old text or the new one."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(content))
        os.replace(draft, path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def write_ending(folder: Path, reason: str, mark: str) -> None:
    """Say that the end of the start with `mark` has begun; a disk that is full is no reason not to end."""
    with suppress(OSError):
        write_json(folder / ENDING, {"reason": reason, "at": time.time(), "mark": mark})


def write_exit(spec: Spec, ended: Exit) -> None:
    """Write exit.json; where the disk has become full, into the room that was kept for it."""
    content = asdict(ended) | {"mark": spec.mark}
    try:
        write_json(spec.path("exit.json"), content)
    except OSError:
        with open(spec.path(ROOM), "r+") as room:
            room.write(json.dumps(content).ljust(ROOM_BYTES))
        os.replace(spec.path(ROOM), spec.path("exit.json"))
    spec.path(ROOM).unlink(missing_ok=True)
