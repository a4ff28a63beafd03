"""A server: start it, watch its stages, know when it is ready, read its logs, stop it and see the memory come back.

The contract (docs/architecture.md): the port is tested first; the processes run under `supervisor`; a process that exits
is reported at once with the line that matters; ready means that /health is 200 and that one token came back from this very
process; stop returns when the process tree is gone and the device's memory is back.

Covers: one server of any engine. Does not cover: which command that is (`engines`).
Used by notebooks 03, 04 and 05.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..chat import http, served
from ..chat.served import Served, ServedAdapters
from ..common import logs
from ..common.errors import LabError, NotRunning
from ..common.refusals import told
from ..engines import ENGINES
from ..engines.engine import Engine
from ..machine import gpu
from . import held_memory, hot_adapters, keys
from .guards import launch
from .process_table import resident_bytes
from .registry import Record, ServerFolder, alive, entries
from .starting import Start
from .stopping import StopReport, clear_away, stop, stop_damaged

if TYPE_CHECKING:
    import psutil


START_SECONDS = 1800.0


class Server:
    """A started server. It may be starting, ready or gone: `state` asks, `wait` waits, `stop` ends it."""

    def __init__(self, engine: Engine, entry: ServerFolder) -> None:
        record = entry.record
        if record is None:
            raise NotRunning(f"No server {entry.name!r} was started here.", _how_to_start(entry.name))
        self.engine, self._entry, self._record = engine, entry.of(record), record

    def __repr__(self) -> str:
        return f"<{self.engine.title} {self.model!r} at {self.url}: {self.state}>"

    @property
    def name(self) -> str:
        """The name it runs under: `./lab logs NAME`, `labkit.attach(NAME)`."""
        return self._record.name

    @property
    def url(self) -> str:
        """http://127.0.0.1:PORT"""
        return f"http://127.0.0.1:{self._record.port}"

    @property
    def api(self) -> str:
        """The OpenAI-compatible root, what clients call base_url."""
        return f"{self.url}/v1"

    @property
    def port(self) -> int:
        return self._record.port

    @property
    def model(self) -> str:
        """What clients write as `model=`."""
        return self._record.model

    @property
    def source(self) -> str:
        """The folder or hub id that is served."""
        return self._record.source

    @property
    def device(self) -> str:
        """ "gpu" or "cpu"."""
        return self._record.device

    @property
    def key_file(self) -> Path:
        """The 0600 file that holds the key."""
        return Path(self._record.key_file)

    @property
    def key(self) -> str:
        """The API key. Do not print it: cell outputs are saved. Raises `LabError` when its file is gone or has another key."""
        return keys.started_with(self.name, self.key_file, self._record.key_digest)

    @property
    def command(self) -> list[str]:
        """The argument list that runs."""
        return self._record.command

    @property
    def shown(self) -> str:
        """The same as a line for a terminal, with the environment that matters; the key is read from its file."""
        return self._record.shown

    @property
    def log(self) -> Path:
        """Standard output."""
        return Path(self._record.out)

    @property
    def errors(self) -> Path:
        """Standard error."""
        return Path(self._record.err)

    @property
    def pid(self) -> int:
        """The engine's first process; 0 before there is one."""
        return self._entry.engine_pid

    @property
    def state(self) -> str:
        """ "starting", "ready", "stopping", "stray" or "ended", from the process table (`registry.Status`)."""
        return self._entry.status().state

    @property
    def alive(self) -> bool:
        return self._entry.status().alive

    @property
    def gpus(self) -> list[str]:
        """The UUIDs of its GPUs, [] without one."""
        return list(held_memory.baseline_of(self._record)) if self.device == "gpu" else []

    @property
    def memory_baseline(self) -> list[int]:
        """Bytes in use on each of its GPUs before the start, [] without one."""
        return list(self._record.baseline)

    @property
    def memory_held(self) -> int | None:
        """Bytes that its GPUs hold more than before its start, None where another server shares one; without a GPU those resident."""
        if self.device != "gpu":
            return resident_bytes(self._entry.processes())
        if held_memory.sharers(self._record):
            return None
        return sum(gpu.memory_used(self.gpus)) - sum(self.memory_baseline)

    @property
    def stages(self) -> list[tuple[str, float]]:
        """(stage, seconds) of this start, in order; complete once ready."""
        return self._record.stages

    @property
    def ready_seconds(self) -> float:
        """From start to ready; 0 before that."""
        return max(0.0, self._record.ready_at - self._record.created_at)

    @cached_property
    def kv_cache_tokens(self) -> int | None:
        """Tokens that fit in the KV cache, as the engine's log says; None if it does not."""
        return self.engine.kv_cache_tokens(self.log.read_text(errors="replace"))

    def processes(self) -> list[psutil.Process]:
        """The live processes of the engine."""
        import psutil

        found = []
        for pid in self._entry.processes():
            try:
                found.append(psutil.Process(pid))
            except psutil.NoSuchProcess:
                continue
        return found

    def logs(self, lines: int = 20, *, errors: bool = False) -> str:
        """The last lines of the standard log, or of the error log."""
        return logs.tail(self.errors if errors else self.log, lines)

    def adapters(self) -> ServedAdapters:
        """The LoRA adapters that it has now, with what clients write as model= for each (`chat.served`)."""
        return served.list_adapters(self)

    def load_adapter(self, name: str, folder: str | Path, *, check: bool = True) -> Served:
        """Load one more while it runs; it must have been started with hot_adapters=True (`hot_adapters.load`)."""
        return hot_adapters.load(self, name, folder, check=check)

    def unload_adapter(self, name: str) -> None:
        """Take one away while it runs (`hot_adapters.unload`)."""
        hot_adapters.unload(self, name)

    def answers(self) -> bool:
        """Whether /health says 200 now; five seconds at most."""
        return http.healthy(self)

    @told()
    def wait(self, timeout: float = START_SECONDS) -> Server:
        """Return when ready. Shows stage, elapsed and expected time meanwhile.

        Raises `StartFailed` as soon as the process exits, with the log line that matters, and after `timeout` seconds; then the server
        is stopped. Raises `NotRunning` for one that was ready and has ended. An interrupt leaves it starting: run the cell again to go
        on waiting.
        """
        status = self._entry.status()
        if status.state == "ready":
            return self
        if status.state == "ended" and self._record.ready_at:
            raise NotRunning(f"The server {self.name!r} has ended: {status.note}.", _how_to_start(self.name))
        try:
            Start(self, self._entry, self._record).wait(timeout)
        except (LabError, OSError):
            if self.alive:
                self.stop()
            else:
                clear_away(self._entry)
            raise
        return self

    @told()
    def stop(self) -> StopReport:
        """End it. Returns when its processes are gone and the memory is back, or says that they are not (`stopping.stop`)."""
        return stop(self, self._entry, self._record)


def start(engine: Engine, record: Record, environment: dict[str, str], *, share_gpu: bool = False) -> Server:
    """`launch`, as a server: returns at once, `Server.wait` waits for ready. Raises what `launch` raises."""
    return Server(engine, launch(engine, record, environment, share_gpu=share_gpu))


@told()
def attach(name: str) -> Server:
    """The running server `name` ("vllm"), started by whichever notebook or terminal. Raises `NotRunning` if there is none."""
    if not isinstance(name, str) or not name or "/" in name or name.startswith("."):
        raise NotRunning(f"{name!r} is no name of a server.", "./lab ps lists them.")
    entry = ServerFolder(name)
    record, status = entry.record, entry.status()
    if status.state == "damaged":
        raise NotRunning(f"{name!r} runs, but {status.note}: nobody can talk to it.", f"./lab down {name} ends it; then start it again.")
    if record is None or not status.alive:
        raise NotRunning(f"No server {name!r} runs here ({status.note}).", _how_to_start(name))
    return Server(known_engine(record), entry)


@told()
def down(name: str) -> str:
    """Stop the server `name`, also one whose record cannot be read, and say how it went. Raises `NotRunning` if there is none, and
    `LabError` if something of it is left."""
    entry = ServerFolder(name)
    if entry.status().state == "damaged":
        left = stop_damaged(entry)
        text = "its record could not be read, so whether its GPU memory came back was not looked at"
    else:
        report = attach(name).stop()
        left, text = report.left or (() if report.returned else ("GPU memory",)), str(report)
    if left:
        raise LabError(f"{name}: {text}. Left: {', '.join(left)}.", "./lab ps and nvidia-smi show what holds it; or restart the instance.")
    return text


@told()
def running() -> list[Server]:
    """All servers of this kit that have live processes, but for those of an engine that this labkit does not know."""
    return [Server(ENGINES[record.engine], entry) for entry, record in alive() if record.engine in ENGINES]


def known_engine(record: Record) -> Engine:
    """The engine of `record`. Raises `LabError` for one of a newer labkit."""
    if record.engine not in ENGINES:
        raise LabError(
            f"The server {record.name!r} is a {record.engine!r}, which this labkit does not know.",
            f"Use the labkit that started it: {record.command[0] if record.command else 'its command is not on record'}.",
        )
    return ENGINES[record.engine]


def _how_to_start(name: str) -> str:
    if name in ENGINES:
        return f"./lab up {name.replace('_', '-')}, or in Python labkit.{'webui.serve()' if name == 'open_webui' else f'serve({name!r})'}."
    return f'./lab ps shows what runs; ./lab up ENGINE MODEL --name {name}, or labkit.serve(ENGINE, MODEL, name="{name}").'


@told()
def shutdown() -> list[StopReport]:
    """Stop every running server of this kit; each report says what came back. Those whose record cannot be read end too, without one."""
    reports = [server.stop() for server in running()]
    for entry in entries():
        if entry.status().state == "damaged":
            stop_damaged(entry)
    return reports
