"""A server: start it, watch its stages, know when it is ready, read its logs, stop it and see the memory come back.

The contract (docs/architecture.md): the port is tested first; the processes run under `supervisor`; a process that exits
is reported at once with the line that matters; ready means that /health is 200 and that one token came back from this very
process; stop returns when the process tree is gone and the device's memory is back.

Covers: one server of any engine. Does not cover: which command that is (`engines`).
Used by notebooks 03, 04 and 05.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from . import hotloading, logs, memory, ports, registry, supervisor
from .engine import Engine
from .errors import LabError, NotRunning, StartFailed
from .hotloading import Served, ServedAdapters
from .progress import Progress
from .registry import Entry, Record

if TYPE_CHECKING:
    import psutil

POLL_SECONDS = 0.2
PROBE_SECONDS = 180.0
"""The first token may compile kernels."""
START_SECONDS = 1800.0
LOGS_KEPT = 10
JOINED_LATE_SECONDS = 5.0
"""Whoever begins to watch later than this saw no true stage times: they are not kept as the expectation."""

_lifelines: dict[Path, int] = {}
"""Server folder -> our end of its pipe. It closes with this process, however this process ends."""


@dataclass(frozen=True)
class StopReport:
    """How a stop went. Memory is bytes: of all GPUs, or without one the resident memory of the server's processes."""

    seconds: float
    exit_code: int | None
    signal: str
    processes_left: int
    memory_before: int
    memory_after: int
    baseline: int
    returned: bool

    def __str__(self) -> str:
        gib = 2**30
        memory_text = f"memory {self.memory_before / gib:.1f} -> {self.memory_after / gib:.1f} GiB"
        verdict = "returned" if self.returned else f"NOT returned (it was {self.baseline / gib:.1f} GiB before the start)"
        return f"stopped in {self.seconds:.1f} s by {self.signal}, {self.processes_left} processes left, {memory_text}: {verdict}"


class Server:
    """A started server. It may be starting, ready or gone: `state` asks, `wait` waits, `stop` ends it."""

    def __init__(self, engine: Engine, entry: Entry) -> None:
        record = entry.record
        if record is None:
            raise NotRunning(f"No server {entry.name!r} was started here.", f"./lab up {entry.name}, or labkit.serve({entry.name!r}).")
        self.engine, self._entry, self._record = engine, entry, record

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
        """The API key. Do not print it: cell outputs are saved."""
        return self.key_file.read_text().strip()

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
        """ "starting", "ready", "stopping", "stray" or "ended", from the process table."""
        return self._entry.status().state

    @property
    def alive(self) -> bool:
        return self._entry.status().alive

    @property
    def memory_baseline(self) -> list[int]:
        """Bytes in use on each GPU before the start, [] without one."""
        return list(self._record.baseline)

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
        """The LoRA adapters that it has now, with what clients write as model= for each (`hotloading.served`)."""
        return hotloading.served(self)

    def load_adapter(self, name: str, folder: str | Path, *, check: bool = True) -> Served:
        """Load one more while it runs; it must have been started with hot_adapters=True (`hotloading.load`)."""
        return hotloading.load(self, name, folder, check=check)

    def unload_adapter(self, name: str) -> None:
        """Take one away while it runs (`hotloading.unload`)."""
        hotloading.unload(self, name)

    def answers(self) -> bool:
        """Whether /health says 200 now; five seconds at most."""
        try:
            with _open(self.url + self.engine.health, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def wait(self, timeout: float = START_SECONDS) -> Server:
        """Return when ready. Shows stage, elapsed and expected time meanwhile.

        Raises `StartFailed` as soon as the process exits, with the log line that matters, and after `timeout` seconds;
        then the server is stopped. An interrupt leaves it starting: run the cell again to go on waiting.
        """
        if self.state == "ready":
            return self
        _Start(self, self._record).wait(timeout)
        return self

    def stop(self) -> StopReport:
        """End it. Returns when its processes are gone and the memory is back, or says that it is not.

        A server that is already gone is reported as such; nothing is raised. What does not come back is remembered,
        and the next start refuses until it has.
        """
        before, started = self._memory(), time.monotonic()
        with Progress(f"Stopping {self.engine.title}", unit="s") as bar:
            self._end_processes(bar, started)
            back = self.device != "gpu" or memory.wait_returned(
                self._record.baseline, lambda s: bar.update(time.monotonic() - started, "waiting for GPU memory")
            )
        _let_go(self._entry)
        ended, left = self._entry.exit, len(self._entry.processes())
        return StopReport(
            seconds=round(time.monotonic() - started, 2),
            exit_code=ended.code if ended else None,
            signal="SIGKILL" if ended is None or ended.killed else "SIGTERM",
            processes_left=left,
            memory_before=before,
            memory_after=self._memory(),
            baseline=sum(self._record.baseline),
            returned=back and not left,
        )

    def _end_processes(self, bar: Progress, started: float) -> None:
        guards = self._entry.guards()
        for guard in guards:
            _signal(guard, signal.SIGTERM)
        while self._entry.guards():
            bar.update(time.monotonic() - started, "waiting for its processes")
            time.sleep(POLL_SECONDS / 4)
        for pid in self._entry.processes():  # strays of guards that were killed
            _signal(pid, signal.SIGKILL)
        while self._entry.processes():
            bar.update(time.monotonic() - started, "killing what is left")
            time.sleep(POLL_SECONDS / 4)

    def _memory(self) -> int:
        if self.device == "gpu":
            return sum(memory.used())
        return sum(process.memory_info().rss for process in self.processes() if process.is_running())


class _Start:
    """Watching one server come up."""

    def __init__(self, server: Server, record: Record) -> None:
        self.server, self.record, self.engine = server, record, server.engine
        self.follower = logs.Follower([server.log, server.errors])
        self.text = ""
        self.stage, self.stage_began = 0, record.created_at
        self.from_the_start = time.time() - record.created_at < JOINED_LATE_SECONDS
        self.expected = _expected(self.engine, record)
        record.stages = []

    def wait(self, timeout: float) -> None:
        total = sum(self.expected)
        with Progress(f"{self.engine.title} is starting", total=total, unit="s") as bar:
            while True:
                self._read(bar)
                if self.server.answers():
                    break
                self._require_alive()
                elapsed = time.time() - self.record.created_at
                if elapsed > timeout:
                    self._give_up(timeout)
                bar.update(elapsed, self.engine.stages[self.stage].name)
                time.sleep(POLL_SECONDS)
            bar.update(time.time() - self.record.created_at, "asking for one token" if self.engine.probe else "")
            self._require_answer()
            self._finish(bar)

    def _read(self, bar: Progress) -> None:
        new = self.follower.new()
        self.text += new
        stage = self.engine.stage_at(new, self.stage) if new else self.stage
        if stage != self.stage:
            self._close_stage(bar)
            self.stage = stage

    def _close_stage(self, bar: Progress) -> None:
        now = time.time()
        name, seconds = self.engine.stages[self.stage].name, round(now - self.stage_began, 1)
        self.record.stages.append((name, seconds))
        self.stage_began = now
        bar.line(f"{seconds:7.1f} s  {name}")

    def _require_alive(self) -> None:
        status = self.server._entry.status()
        if status.state in ("starting", "ready"):
            return
        while self.server._entry.guards():
            time.sleep(POLL_SECONDS / 4)
        self.text += self.follower.new()
        ended = self.server._entry.exit
        _let_go(self.server._entry)
        raise _failure(self.server, self.text, ended)

    def _require_answer(self) -> None:
        """One token from one of our own processes: another server on the port cannot pass for ours."""
        pids = self.server._entry.processes()
        if not ports.listens(self.server.port, pids):
            self.server.stop()
            other = ports.listener(self.server.port)
            raise StartFailed(
                f"Port {self.server.port} answers, but not from our processes: {other}.", "Stop that process, then start again."
            )
        if self.engine.probe:
            self._ask_one_token()

    def _ask_one_token(self) -> None:
        body = json.dumps({"model": self.server.model, "prompt": "1 + 1 =", "max_tokens": 1, "temperature": 0}).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.server.key}"}
        request = urllib.request.Request(self.server.url + self.engine.probe, body, headers)
        try:
            with _open(request, timeout=PROBE_SECONDS) as answer:
                json.load(answer)["choices"]
        except (OSError, KeyError, ValueError) as error:
            self._require_alive()
            detail = error.read().decode(errors="replace")[:300] if isinstance(error, urllib.error.HTTPError) else str(error)
            self.server.stop()
            raise StartFailed(
                f"{self.engine.title} is up, but one token did not come back: {detail}", "Read the log.", log=str(self.server.log)
            ) from error

    def _give_up(self, timeout: float) -> None:
        stage = self.engine.stages[self.stage].name
        self.server.stop()
        raise StartFailed(
            f"{self.engine.title} was not ready after {timeout:.0f} s; it was at: {stage}. It has been stopped.",
            "Look at the log; on a slow machine give more time: serve(..., timeout=3600).",
            log=str(self.server.log),
        )

    def _finish(self, bar: Progress) -> None:
        self._close_stage(bar)
        self.record.ready_at = time.time()
        self.server._entry.save(self.record)
        if self.from_the_start:
            _remember(self.engine, self.record)
        bar.line(f"{self.record.ready_at - self.record.created_at:7.1f} s  in all: {self.engine.title} is ready at {self.server.url}")


def start(engine: Engine, record: Record, environment: dict[str, str]) -> Server:
    """Start the processes of `record` under the guards and return at once; `Server.wait` waits for ready.

    `environment` is added to this process's own, and carries the key: it reaches the engine and no file. Raises, before
    any process starts: `LabError` if one of that name runs, `PortInUse`, `MemoryHeld`.
    """
    entry = Entry(record.name)
    with _locked(entry):
        _require_ended(entry)
        ports.require_free(record.port, engine.port_variable)
        if record.device == "gpu":  # Open-WebUI holds none: what an engine takes meanwhile is not its own
            memory.require_returned()
            record.baseline = memory.used()
        entry.forget()
        record.created_at = time.time()
        _drop_old_logs(Path(record.out).parent)
        spec = supervisor.Spec(record.command, str(entry.folder), record.out, record.err, engine.grace_seconds)
        record.watcher = _launch(entry, spec, record.owner, {**os.environ, **environment})
        record.watcher_started = registry.start_ticks(record.watcher)
        entry.save(record)
    return Server(engine, entry)


def _require_ended(entry: Entry) -> None:
    status = entry.status()
    if status.state == "stray":
        raise LabError(f"Processes of an earlier {entry.name} are left: {status.note}.", f"./lab down {entry.name} ends them.")
    if status.alive:
        raise LabError(
            f"{entry.name} is already {status.state}, with other flags or another model.",
            f'labkit.attach("{entry.name}") uses it as it is; stop it first to change it: ./lab down {entry.name}.',
        )


def _launch(entry: Entry, spec: supervisor.Spec, owner: str, environment: dict[str, str]) -> int:
    """Start the watcher, in a session of its own; with owner "kernel" it gets one end of a pipe to this process."""
    path = entry.folder / "spec.json"
    supervisor.write_json(path, asdict(spec))
    arguments = [sys.executable, "-I", supervisor.__file__, str(path)]
    read_end = write_end = -1
    if owner == "kernel":
        read_end, write_end = os.pipe()
        arguments.append(str(read_end))
    with open(entry.folder / "guards.log", "ab") as log:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
            pass_fds=[read_end] if read_end >= 0 else [],
        )
    if read_end >= 0:
        os.close(read_end)
        _let_go(entry)
        _lifelines[entry.folder] = write_end
    _children.append(process)
    return process.pid


_children: list[subprocess.Popen[bytes]] = []
"""Watchers started here; kept so that Python reaps them when it starts the next process."""


def _let_go(entry: Entry) -> None:
    if entry.folder in _lifelines:
        os.close(_lifelines.pop(entry.folder))
    for child in _children:
        child.poll()


def _failure(server: Server, text: str, ended: supervisor.Exit | None) -> StartFailed:
    """The exit as an error: what the log says, what it means, what to do."""
    verdict = logs.explain(text, server.engine.explanations)
    code = ended.code if ended else None
    log = str(server.errors if verdict.line in server.errors.read_text(errors="replace") else server.log)
    if ended and ended.reason == "not started":
        return StartFailed(f"{server.command[0]} could not be run: {ended.error}", "Make the environment again: ./lab doctor.")
    if verdict.cause:
        return StartFailed(verdict.cause, verdict.fix, line=verdict.line, log=log)
    if code in (-9, 137) or ended is None:
        cause = f"{server.engine.title} was killed while starting (SIGKILL)."
        return StartFailed(cause, "If nobody did, the machine ran out of memory: dmesg | tail, free -g.", line=verdict.line, log=log)
    how = ended.reason if ended.reason != "exited" else f"exited with code {code}"
    fix = "Read the log from the first ERROR on; the last lines often only say that something failed above."
    return StartFailed(f"{server.engine.title} {how} while starting.", fix, line=verdict.line, log=log)


def _expected(engine: Engine, record: Record) -> list[float]:
    """Seconds of each stage: of the last start of this engine and model here, else the measured ones of its data."""
    history = _history().get(_history_key(record), {})
    gpu = record.device == "gpu"
    return [history.get(stage.name, 0.0 if history else (stage.gpu_seconds if gpu else stage.cpu_seconds)) for stage in engine.stages]


def _remember(engine: Engine, record: Record) -> None:
    supervisor.write_json(registry.history_file(), _history() | {_history_key(record): dict(record.stages)})


def _history() -> dict[str, dict[str, float]]:
    try:
        content: dict[str, dict[str, float]] = json.loads(registry.history_file().read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return content


def _history_key(record: Record) -> str:
    return f"{record.engine} {record.model} {record.device}"


def _drop_old_logs(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in sorted(folder.glob("*.log"))[: -2 * LOGS_KEPT]:
        old.unlink(missing_ok=True)


@contextmanager
def _locked(entry: Entry) -> Iterator[None]:
    """One start of a name at a time, over all processes."""
    entry.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(entry.folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _open(request: urllib.request.Request | str, timeout: float):  # type: ignore[no-untyped-def]
    """urlopen without proxies: the server is on this machine, and network_turbo sets http_proxy for everything."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout)


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
