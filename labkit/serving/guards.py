"""Starts the processes of a server under its two guards, after everything that can be refused has been looked at.

Covers: one start at a time, a busy port or GPU, memory that did not come back, the pipe that ties a server to this process. Does not cover:
when it is ready (`starting`), its end (`server`), what the guards do (`supervisor`).
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from ..common.errors import AlreadyRunning, LabError, PortInUse
from ..common.files import make_folder
from ..common.locks import locked
from ..common.refusals import told
from ..common.settings import settings
from ..engines.engine import Engine
from ..machine import ports
from . import held_memory, keys, lifelines, placement
from .exits import Spec, write_json
from .process_table import start_ticks
from .registry import Record, ServerFolder, alive
from .stopping import await_end, clear_away, end_processes

LOGS_KEPT = 10

PROGRAM = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r}); "
    "from labkit.serving.supervisor import main; main(sys.argv[1:])"
)
"""What each watcher runs, in a Python that sees nobody's environment, folder or user packages (-I), and no other labkit: the guards of a
server write what this very one reads."""


@told()
def launch(engine: Engine, record: Record, environment: dict[str, str], *, share_gpu: bool = False) -> ServerFolder:
    """Start the processes of `record` under the guards and return at once; `Server.wait` waits for ready.

    `environment` is added to this process's own, and carries the key: it reaches the engine and no file. Raises, before
    any process starts: `LabError` if one of that name runs or a file cannot be written, `PortInUse`, `GpuInUse` unless `share_gpu`,
    `MemoryHeld`.
    """
    entry = ServerFolder(record.name)
    await_end(entry, engine.title, engine.grace_seconds)
    with locked(settings().state / "servers.lock"):  # one start at a time, so that two cannot take the same port or GPU
        _require_ended(entry)
        require_port(engine, record.name, record.port)
        if record.device == "gpu":  # Open-WebUI holds none: what an engine takes meanwhile is not its own
            if not share_gpu:
                placement.require_unused(record)
            held_memory.await_crashed(record)
            held_memory.require_returned(record)
            record.baseline = held_memory.measure(record)
        clear_away(entry)
        _drop_old_logs(Path(record.out).parent)
        entry.forget()
        record.key_digest = keys.digest(keys.read(Path(record.key_file)) or "")
        record.created_at, record.mark = time.time(), secrets.token_hex(8)
        entry.save(record)  # before there is a process: one without a record could not be found again
        spec = Spec(record.command, str(entry.folder), record.out, record.err, engine.grace_seconds, record.mark)
        record.watcher = _launch(entry, spec, record.owner, {**os.environ, **environment})
        record.watcher_started = start_ticks(record.watcher)
        try:
            entry.save(record)
        except LabError:
            end_processes(entry, engine.grace_seconds, lambda note: None)
            raise
    return entry


def _require_ended(entry: ServerFolder) -> None:
    status = entry.status()
    if status.state in ("stray", "damaged", "stopping"):
        cause = {
            "stray": f"Processes of an earlier {entry.name} are left: {status.note}.",
            "damaged": f"{entry.name} runs, but {status.note}.",
            "stopping": f"{entry.name} is being stopped and has not ended: {status.note}.",
        }
        raise LabError(cause[status.state], f"./lab down {entry.name} ends what is left.")
    if status.alive:
        raise AlreadyRunning(
            f"{entry.name} is already {status.state}, with other flags, another model, other GPUs or another owner.",
            f'labkit.attach("{entry.name}") uses it as it is; stop it first to change it: ./lab down {entry.name}.',
        )


def require_port(engine: Engine, name: str, port: int) -> None:
    """Raise `PortInUse` for a port that somebody listens on, or that a server which is still starting has been given."""
    other = next((other.name for _, other in alive() if other.port == port and other.name != name), "")
    if other:
        raise PortInUse(f"Port {port} belongs to the server {other!r}.", f"./lab down {other} stops it, or choose another: port=<port>.")
    ports.require_free(port, engine.port_variable)


def _launch(entry: ServerFolder, spec: Spec, owner: str, environment: dict[str, str]) -> int:
    """Start the watcher, in a session of its own; with owner "kernel" it gets one end of a pipe to this process."""
    path = entry.folder / "spec.json"
    write_json(path, asdict(spec))
    argv = [sys.executable, "-I", "-c", PROGRAM, str(path)]
    ends = os.pipe() if owner == "kernel" else ()
    try:
        with open(entry.folder / "guards.log", "ab") as log:
            process = subprocess.Popen(
                [*argv, *map(str, ends[:1])],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                pass_fds=ends[:1],
            )
    except OSError:
        for end in ends[1:]:
            os.close(end)
        raise
    finally:
        for end in ends[:1]:
            os.close(end)
    lifelines.tie(entry.folder, process, *ends[1:])
    return process.pid


def _drop_old_logs(folder: Path) -> None:
    make_folder(folder)
    for old in sorted(folder.glob("*.log"))[: -2 * LOGS_KEPT]:
        with suppress(OSError):
            old.unlink(missing_ok=True)
