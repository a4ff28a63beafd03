"""Ends one server and sees the memory come back; comes back itself in any case.

After the engine's grace processes are killed, and what does not die within `KILL_SECONDS` (hanging in a driver) is reported by pid and
state, not waited for. Does not cover: how the guards end the engine's tree (`supervisor`), what memory is whose (`held_memory`).
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..common.amounts import GIB
from ..common.progress import Progress
from ..machine import gpu
from . import held_memory, temporary
from .exits import KILL_SECONDS, ROOM
from .lifelines import let_go
from .process_table import describe, resident_bytes, signal_process

if TYPE_CHECKING:
    from ..engines.endpoint import Endpoint
    from .registry import Record, ServerFolder

POLL_SECONDS = 0.05
GRACE_SECONDS = 20.0
"""For a server of which not even the engine is known."""
SPARE_SECONDS = 3.0
"""What the guards may take on top of the engine's grace and of killing what is left."""


@dataclass(frozen=True)
class StopReport:
    """How a stop went. Memory is bytes: of the server's GPUs, or without one the resident memory of its processes.

    `left` names the processes that SIGKILL did not end, with their state. `shared` names the servers that still use one of its GPUs:
    what they hold cannot be told from what it held, so `returned` then only speaks of the others, and the last of them to stop is
    judged for all.
    """

    seconds: float
    exit_code: int | None
    signal: str
    processes_left: int
    memory_before: int
    memory_after: int
    baseline: int
    returned: bool
    left: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    memory_told: bool = True
    """False where the driver does not tell what is in use on the GPU: nobody can say then whether it came back."""

    def __str__(self) -> str:
        memory_text = f"memory {self.memory_before / GIB:.1f} -> {self.memory_after / GIB:.1f} GiB"
        verdict = "returned" if self.returned else f"NOT returned (it was {self.baseline / GIB:.1f} GiB before the start)"
        if not self.memory_told:
            memory_text, verdict = "memory", "not told by this GPU's driver, so whether it came back is not known"
        elif self.shared:
            verdict = f"shared with {', '.join(self.shared)}, judged when the last one stops"
        left = f" ({', '.join(self.left)})" if self.left else ""
        return f"stopped in {self.seconds:.1f} s by {self.signal}, {self.processes_left} processes left{left}, {memory_text}: {verdict}"


def stop(server: Endpoint, folder: ServerFolder, record: Record) -> StopReport:
    """End the server of `folder` and say how it went.

    A server that is already gone is reported as such; nothing is raised. Memory that does not come back is remembered, and the next
    start on those GPUs refuses until it has.
    """
    before, started = _memory(server, folder), time.monotonic()
    baseline = held_memory.baseline_of(record) if record.device == "gpu" else {}
    with Progress(f"Stopping {server.engine.title}", unit="s") as bar:
        end_processes(folder, server.engine.grace_seconds, lambda note: bar.update(time.monotonic() - started, note))
        shared = held_memory.sharers(record) if baseline else {}
        own = {uuid: used for uuid, used in baseline.items() if uuid not in shared}
        back = held_memory.wait_returned(own, lambda s: bar.update(time.monotonic() - started, "waiting for GPU memory"))
    let_go(folder.folder)
    ended, left = folder.exit, folder.processes() + folder.guards()
    return StopReport(
        seconds=round(time.monotonic() - started, 2),
        exit_code=ended.code if ended else None,
        signal="SIGKILL" if ended is None or ended.killed else "SIGTERM",
        processes_left=len(left),
        memory_before=before,
        memory_after=_memory(server, folder),
        baseline=sum(record.baseline),
        returned=back and not left,
        left=describe(left),
        memory_told=all(device.memory_told for device in gpu.find(record.gpus)),
        shared=tuple(sorted({other.name for others in shared.values() for other in others})),
    )


def end_processes(folder: ServerFolder, grace_seconds: float, tell: Callable[[str], None]) -> None:
    """Ask the guards to end it; then kill them and what is left: strays of guards that were killed, guards that do not answer."""
    guards = folder.guards()
    if guards:
        folder.mark_ending()
    for guard in guards:
        signal_process(guard, signal.SIGTERM)
        signal_process(guard, signal.SIGCONT)  # a suspended one acts on nothing
    _wait_gone(folder.guards, grace_seconds + KILL_SECONDS + SPARE_SECONDS, lambda: tell("waiting for its processes"))
    for pid in (*folder.guards(), *folder.processes()):
        signal_process(pid, signal.SIGKILL)
    _wait_gone(lambda: folder.guards() + folder.processes(), KILL_SECONDS, lambda: tell("killing what is left"))
    clear_away(folder)


def clear_away(folder: ServerFolder) -> None:
    """Remove the temporary files of a server none of whose guards lived to do so. Nothing is raised."""
    record = folder.record
    if folder.exit is None and not folder.guards() and not folder.processes():
        temporary.tidy(folder.folder, record.created_at if record else 0.0)
        with suppress(OSError):
            (folder.folder / ROOM).unlink(missing_ok=True)


def stop_damaged(folder: ServerFolder) -> tuple[str, ...]:
    """End what runs in a folder whose record cannot be read; returns what is left, by pid and state. Its GPUs are not known: their memory
    is not looked at."""
    started = time.monotonic()
    with Progress(f"Stopping {folder.name}", unit="s") as bar:
        end_processes(folder, GRACE_SECONDS, lambda note: bar.update(time.monotonic() - started, note))
    let_go(folder.folder)
    left = describe(folder.processes() + folder.guards())
    if not left:
        folder.forget()
    return left


def await_end(folder: ServerFolder, title: str, grace_seconds: float) -> None:
    """Wait for a stop that is under way; at most as long as a stop may take."""
    if folder.status().state != "stopping":
        return
    started = time.monotonic()
    with Progress(f"{title} is being stopped", unit="s") as bar:
        while folder.status().state == "stopping" and time.monotonic() - started < grace_seconds + 2 * KILL_SECONDS + SPARE_SECONDS:
            bar.update(time.monotonic() - started, "waiting for its end")
            time.sleep(POLL_SECONDS)


def _wait_gone(left: Callable[[], list[int]], seconds: float, on_wait: Callable[[], None]) -> None:
    deadline = time.monotonic() + seconds
    while left() and time.monotonic() < deadline:
        on_wait()
        time.sleep(POLL_SECONDS)


def _memory(server: Endpoint, folder: ServerFolder) -> int:
    return sum(gpu.memory_used(server.gpus)) if server.device == "gpu" else resident_bytes(folder.processes())
