"""A worker script that is watched by what it brings to disk: started with a request, and ended with whatever it forked.

Covers: progress by bytes on disk, silence, what the script says meanwhile, the end of the whole group, also of one that does not end.
Does not cover: what the script does (`client`), what its failures mean (`failures`). Used by notebook 02 through `labkit.download`.

`workers.launch` starts workers too, but waits for as long as a killed one takes to be gone: a client that writes to a network file
system may never be.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from ..common.amounts import amount_text
from ..common.errors import DownloadError
from ..common.progress import Progress
from ..workers import side

POLL_SECONDS = 0.1
QUIET_SECONDS = 20.0
"""After this long without a new byte the bar says so."""
STALLED_SECONDS = 600.0
"""After this long without `LEAST_BYTES` the script is ended. Clients hash what they find on disk meanwhile: 16 GB take minutes."""
LEAST_BYTES = 2**16
"""Fewer than these in `STALLED_SECONDS` are no download: a model of 16 GB would take years."""
GOES_ON = "Run the download again: it goes on from here."
KILL_SECONDS = 10.0
"""How long a group may take to be gone after SIGKILL."""


@dataclass(frozen=True)
class Ended:
    """A script that ended: its exit code, the fields of its result, and those of the failure that it told ({} for none)."""

    code: int
    result: Mapping[str, Any]
    failure: Mapping[str, Any]


@dataclass(frozen=True)
class Watch:
    """How a script is watched: `measure` tells the bytes on disk so far, of `total`; at the share `stop_at` it is ended."""

    title: str
    measure: Callable[[], int]
    total: int
    stop_at: float | None = None


def run(
    script: Path, request: Mapping[str, Any], watch: Watch, *, environment: Mapping[str, str], log: Path, pass_fds: tuple[int, ...] = ()
) -> Ended:
    """Run `script` (see `workers.side`) with `request`, show a bar, and return how it ended.

    What it tells as "waiting" (a `text`) is printed and stands in the bar. Its prints and errors go to `log`; it holds `pass_fds` open,
    a lock for example. Whatever ends this call ends the script and all that it forked. Raises `DownloadError` when no new byte came for
    `STALLED_SECONDS`, at `stop_at`, and for processes that outlive SIGKILL by `KILL_SECONDS`.
    """
    with log.open("wb") as stream:
        child = subprocess.Popen(
            [sys.executable, str(side.__file__), str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            env=dict(environment),
            start_new_session=True,
            pass_fds=pass_fds,
        )
    assert child.stdin is not None and child.stdout is not None
    said = _Events(child.stdout)
    try:
        with suppress(BrokenPipeError):  # it ended before it read its request: its log says why
            child.stdin.write((json.dumps(request) + "\n").encode())
            child.stdin.flush()
        _follow(child, watch, said)
    finally:
        with suppress(BrokenPipeError):
            child.stdin.close()
        _end_group(child)
    said.thread.join(KILL_SECONDS)
    return Ended(child.returncode, said.last.get("result", {}), said.last.get("failure", {}))


class _Events:
    """What a script says, read as it comes: the last of each kind, and sentences that wait to be shown."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.last: dict[str, dict[str, Any]] = {}
        self.texts: SimpleQueue[str] = SimpleQueue()
        self.thread = threading.Thread(target=self._read, args=(stream,), daemon=True, name="labkit-download")
        self.thread.start()

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                with suppress(ValueError):
                    self._take(json.loads(line))

    def _take(self, event: Any) -> None:
        if isinstance(event, dict):
            self.last[str(event.get("event"))] = event
            if event.get("event") == "waiting":
                self.texts.put(str(event.get("text")))


def _follow(child: subprocess.Popen[bytes], watch: Watch, said: _Events) -> None:
    """Show bytes on disk until the script ends; every client can be watched this way."""
    start = moved = time.monotonic()
    first = last = counted = watch.measure()
    note = ""
    with Progress(watch.title, total=watch.total, unit="B") as bar:
        while not _ended(child.pid):
            done, now = watch.measure(), time.monotonic()
            while not said.texts.empty():
                note = said.texts.get()
                bar.line(note)
            if done != last:
                last, note = done, ""
            if abs(done - counted) >= LEAST_BYTES:
                counted, moved = done, now
            bar.update(min(done, watch.total), note or _pace(done - first, watch.total - done, now - start, now - moved))
            if watch.stop_at is not None and done >= watch.stop_at * watch.total:
                raise DownloadError(f"Stopped at {done / watch.total:.0%}, as stop_at asked.", GOES_ON)
            if now - moved > STALLED_SECONDS:
                amounts = f"{amount_text(done, 'B')} of {amount_text(watch.total, 'B')} had come"
                came = f"{abs(done - counted)} bytes in" if done != counted else "no new byte for"
                cause = f"{watch.title}: {came} {now - moved:.0f} s, so the client was ended; {amounts}."
                raise DownloadError(cause, f"{GOES_ON} Or take another source.")
            time.sleep(POLL_SECONDS)
        bar.update(min(watch.measure(), watch.total))


def _pace(moved: int, left: int, seconds: float, still: float) -> str:
    if still > QUIET_SECONDS:
        return f"no new bytes for {still:.0f} s"
    if seconds < 2 or moved <= 0:
        return ""
    rate = moved / seconds
    return f"{rate / 1e6:.1f} MB/s, {max(0, left) / rate / 60:.0f} min left"


def _ended(pid: int) -> bool:
    """Whether a child has ended; it is not collected, so that its number is nobody else's when its group is killed."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """SIGKILL, because huggingface_hub deletes its partial file when it is asked politely."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    deadline = time.monotonic() + KILL_SECONDS
    while child.poll() is None or _members(child.pid):
        if time.monotonic() > deadline:
            left = ", ".join(_members(child.pid)) or f"process {child.pid}"
            raise DownloadError(
                f"The client did not end within {KILL_SECONDS:.0f} s of SIGKILL; left: {left}.",
                f"State D is a wait for a disk or a network file system: see to that first. {GOES_ON}",
            )
        time.sleep(0.02)


def _members(group: int) -> list[str]:
    """The living processes of a group, as "process 4711 (git, state D)"; the state is that of the thread that holds it up."""
    members = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            name, _, rest = (process / "stat").read_text().partition("(")[2].rpartition(") ")
            if int(rest.split()[2]) == group:
                states = {_state(stat) for stat in (process / "task").glob("*/stat")} - {"Z", "X"}
                members += [f"process {process.name} ({name}, state {min(states)})"] if states else []
    return members


def _state(stat: Path) -> str:
    return stat.read_text().rpartition(") ")[2][0]
