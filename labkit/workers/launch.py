"""Runs one job of labkit's in an engine's environment, where torch, transformers and peft are: a worker script.

    launch.run(Path("merge_worker.py"), {"base": ...}, title="Merging", total=16.4e9, unit="B")   -> the worker's result

The notebook kernel never imports torch; what needs it is a script that gets one request, says how far it is, and answers.
The script's half is `side`. The worker and whatever it forks end with the caller, however that dies.

Covers: starting, progress, lines that stay, errors with cause and fix, the log, the end. Does not cover: servers (`server`),
the benchmark client (`bench`), making the environment (`runtimes`). Used by notebook 06 through `labkit.lora` and its kin.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..common import errors, logs
from ..common.errors import LabError
from ..common.progress import Progress
from ..common.settings import settings
from ..runtimes import environments

SCRIPTS = Path(__file__).parent
"""The worker scripts lie beside this file."""
SIDE = SCRIPTS / "side.py"
"""What the environment's Python runs; it runs the worker script."""
QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
"""Workers read local folders only: a library that asks a hub would wait for a network that may not be there."""
POLL_SECONDS = 0.5
GRACE_SECONDS = 10.0
"""How long a worker that has answered may take to end by itself."""
Event = dict[str, Any]


def run(
    script: Path,
    request: Mapping[str, Any],
    *,
    title: str = "",
    total: float | None = None,
    unit: str = "s",
    engine: str = "vllm",
    python: Path | None = None,
    environment: Mapping[str, str] | None = None,
    on_event: Callable[[Event], None] | None = None,
    on_tick: Callable[[Progress], None] | None = None,
    tick_seconds: float = POLL_SECONDS,
    on_failure: Callable[[int, Path], LabError] | None = None,
    pass_fds: tuple[int, ...] = (),
) -> Event:
    """Run `script` with `request` in `engine`'s environment and return the fields of its result.

    `total` and `unit` are the progress bar's (a worker may correct the total). `python` replaces the environment's, and
    `environment` is added to this process's. Events that are not the launcher's own go to `on_event`; anything that it
    raises ends the worker, and so with `on_tick`, which gets the bar every `tick_seconds` while the worker is silent. The worker holds
    `pass_fds` open, a lock for example. Leaves to the script: what a request holds, and what half-done files mean.

    Raises the error that the worker told (`LabError` or a named child); for a worker that ended without a word what `on_failure`
    makes of its exit code and log, else `LabError` with the last telling line of the log.
    """
    job = _Job(script, request, title or script.stem, on_event or (lambda event: None))
    job.on_tick, job.tick_seconds, job.on_failure, job.pass_fds = on_tick, tick_seconds, on_failure, pass_fds
    return job.run(
        str(python or environments.python(engine)),
        {**os.environ, **settings().cache_environment(), **QUIET, **(environment or {})},
        total,
        unit,
    )


class _Job:
    def __init__(self, script: Path, request: Mapping[str, Any], title: str, on_event: Callable[[Event], None]) -> None:
        self.script, self.request, self.title, self.on_event = script, request, title, on_event
        stamp = time.strftime("%Y%m%d-%H%M%S")
        self.log = settings().logs / "workers" / f"{stamp}-{script.stem}-{os.getpid()}-{time.monotonic_ns() % 10**6}.log"
        self.result: Event | None = None
        self.on_tick: Callable[[Progress], None] | None = None
        self.tick_seconds = POLL_SECONDS
        self.on_failure: Callable[[int, Path], LabError] | None = None
        self.pass_fds: tuple[int, ...] = ()

    def run(self, python: str, environment: Mapping[str, str], total: float | None, unit: str) -> Event:
        words = json.dumps(self.request, allow_nan=False) + "\n"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with Progress(self.title, total, unit) as bar:
            process = self._start(python, environment)
            try:
                with suppress(BrokenPipeError):  # it ended before it read its request: its log says why
                    process.stdin.write(words)  # type: ignore[union-attr]
                    process.stdin.flush()  # type: ignore[union-attr]
                self._listen(process, bar)
            except BaseException:
                _kill(process)
                raise
            finally:
                _end(process)
            if self.result is None:
                self._fail(process.returncode)
        return self.result or {}

    def _start(self, python: str, environment: Mapping[str, str]) -> subprocess.Popen[str]:
        """In a session of its own: Ctrl-C reaches it through us, and its whole group can be ended."""
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [python, str(SIDE), str(self.script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=dict(environment),
                start_new_session=True,
                pass_fds=self.pass_fds,
            )

    def _listen(self, process: subprocess.Popen[str], bar: Progress) -> None:
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_pass_on, args=(process, lines), daemon=True).start()
        bar.update(0, "starting")
        while True:
            try:
                line = lines.get(timeout=self.tick_seconds)
            except queue.Empty:
                if self.on_tick:
                    self.on_tick(bar)
                else:
                    bar.update(bar.done, bar.note)  # the seconds go on
                if _ended(process):
                    return  # what it forked may still hold its output open
                continue
            if line is None:
                return
            self._take(_event(line), bar)

    def _take(self, event: Event, bar: Progress) -> None:
        kind = event.get("event")
        if kind == "progress":
            bar.total = event.get("total", bar.total)
            bar.update(event["done"], event.get("note", ""))
        elif kind == "line":
            bar.line(event["text"])
        elif kind == "error":
            raise _error(event)
        elif kind == "result":
            self.result = {name: value for name, value in event.items() if name != "event"}
        else:
            self.on_event(event)

    def _fail(self, code: int) -> None:
        if self.on_failure:
            raise self.on_failure(code, self.log)
        line = logs.explain(self.log.read_text(errors="replace"), ()).line
        if code == -signal.SIGKILL:
            cause = f"{self.title}: the process was killed, as the system does when memory runs out."
            raise LabError(cause, f"See what else holds memory: ./lab doctor. The whole log: {self.log}.")
        raise LabError(f"{self.title} ended with exit code {code}: {line}", f"The whole log: {self.log}.")


def _event(line: str) -> Event:
    """A line of the worker's; what is no event (a library that writes to the descriptor itself) is shown as it is."""
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    return event if isinstance(event, dict) else {"event": "line", "text": line.rstrip()}


def _error(event: Event) -> LabError:
    """The worker's error, as the child of `LabError` that it names."""
    kind = getattr(errors, event.get("kind") or "LabError", None)
    family = kind if isinstance(kind, type) and issubclass(kind, LabError) else LabError
    return family(event["cause"], event.get("fix", ""))


def _pass_on(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    for line in process.stdout:  # type: ignore[union-attr]
        lines.put(line)
    lines.put(None)


def _kill(process: subprocess.Popen[str]) -> None:
    """The worker and what it forked. Not yet collected, so that its number is nobody else's."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[str]) -> None:
    """Let it end by itself after its last word; then end what is left of its group."""
    deadline = time.monotonic() + GRACE_SECONDS
    while not _ended(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    _kill(process)
    with suppress(BrokenPipeError):
        process.stdin.close()  # type: ignore[union-attr]
    process.wait()


def _ended(process: subprocess.Popen[str]) -> bool:
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
