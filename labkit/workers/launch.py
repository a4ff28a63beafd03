"""Runs one job of labkit's in an engine's environment, where torch, transformers and peft are: a worker script.

    launch.run(Path("merge_worker.py"), {"base": ...}, title="Merging", total=16.4e9, unit="B")   -> the worker's result

The notebook kernel never imports torch; what needs it is a script that gets one request, says how far it is, and answers.
The script's half is `side`. The worker and whatever it forks end with the caller, however that dies.

Covers: starting, progress, lines that stay, errors with cause and fix, the log, the end. Does not cover: servers (`serving`),
making the environment (`runtimes`). Used by notebooks 03 and 04 through `benchmark`, by 06 through `lora`, `training`, `evaluation`.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..common import errors
from ..common.errors import LabError
from ..common.logs import last_line
from ..common.progress import Progress
from ..common.settings import settings
from ..failures.verdicts import explain_files
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
    environment: Mapping[str, str | None] | None = None,
    on_event: Callable[[Event], None] | None = None,
    on_tick: Callable[[Progress], None] | None = None,
    tick_seconds: float = POLL_SECONDS,
    on_failure: Callable[[int, Path], LabError] | None = None,
    pass_fds: tuple[int, ...] = (),
) -> Event:
    """Run `script` with `request` in `engine`'s environment and return the fields of its result.

    `total` and `unit` are the progress bar's (a worker may correct the total). `python` replaces the environment's, and
    `environment` is added to this process's; a value None takes a variable away. Events that are not the launcher's own go to
    `on_event`; anything that it raises ends the worker, and so with `on_tick`, which gets the bar before the first event and then
    every `tick_seconds` while the worker is silent. The worker holds `pass_fds` open, a lock for example. Leaves to the script: what
    a request holds, and what half-done files mean.

    Raises the error that the worker told (`LabError` or a named child); for a worker that ended without a word what `on_failure`
    makes of its exit code and log, else `LabError` with the last telling line of the log.
    """
    name, line = title or script.stem, json.dumps(request, allow_nan=False) + "\n"
    stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{script.stem}-{os.getpid()}-{time.monotonic_ns() % 10**6}"
    log = settings().logs / "workers" / f"{stamp}.log"
    merged = {**os.environ, **settings().cache_environment(), **QUIET, **(environment or {})}
    argv = [str(python or environments.python(engine)), str(SIDE), str(script)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with Progress(name, total, unit) as bar:
        process = _start(argv, {variable: value for variable, value in merged.items() if value is not None}, log, pass_fds)
        try:
            with suppress(BrokenPipeError):  # it ended before it read its request: its log says why
                process.stdin.write(line)  # type: ignore[union-attr]
                process.stdin.flush()  # type: ignore[union-attr]
            result = _listen(process, bar, on_event or (lambda event: None), on_tick or _redraw, tick_seconds)
        except BaseException:
            _kill(process)
            raise
        finally:
            _end(process)
        if result is None:
            raise on_failure(process.returncode, log) if on_failure else _failure(name, process.returncode, log)
    return result


def _start(argv: Sequence[str], environment: Mapping[str, str], log: Path, pass_fds: tuple[int, ...]) -> subprocess.Popen[str]:
    """In a session of its own: Ctrl-C reaches it through us, and its whole group can be ended."""
    with log.open("wb") as stream:
        return subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=dict(environment),
            start_new_session=True,
            pass_fds=pass_fds,
        )


def _listen(
    process: subprocess.Popen[str],
    bar: Progress,
    on_event: Callable[[Event], None],
    on_tick: Callable[[Progress], None],
    tick_seconds: float,
) -> Event | None:
    """The worker's result, None if it ended without one; what it says before that goes to the bar and `on_event`."""
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_pass_on, args=(process, lines), daemon=True).start()
    result = None
    bar.update(0, "starting")
    on_tick(bar)
    while True:
        try:
            line = lines.get(timeout=tick_seconds)
        except queue.Empty:
            on_tick(bar)
            if _ended(process):
                return result  # what it forked may still hold its output open
            continue
        if line is None:
            return result
        event = _event(line)
        if event.get("event") == "result":
            result = {name: value for name, value in event.items() if name != "event"}
        else:
            _take(event, bar, on_event)


def _take(event: Event, bar: Progress, on_event: Callable[[Event], None]) -> None:
    kind = event.get("event")
    if kind == "progress":
        bar.total = event.get("total", bar.total)
        bar.update(event["done"], event.get("note", ""))
    elif kind == "line":
        bar.line(event["text"])
    elif kind == "error":
        raise _error(event)
    else:
        on_event(event)


def _redraw(bar: Progress) -> None:
    """The seconds go on."""
    bar.update(bar.done, bar.note)


def _failure(title: str, code: int, log: Path) -> LabError:
    """The error of a worker that ended without a word."""
    if code == -signal.SIGKILL:
        cause = f"{title}: the process was killed, as the system does when memory runs out."
        return LabError(cause, f"See what else holds memory: ./lab doctor. The whole log: {log}.")
    return LabError(f"{title} ended with exit code {code}: {own_words(log)}", f"The whole log: {log}.")


def own_words(log: Path) -> str:
    """What a log says last of a failure: the root exception, with its cause where that is known; else its last line."""
    verdict = explain_files([log])
    said = verdict.words if verdict.found else last_line(log)
    return f"{said}\n{verdict.cause} {verdict.fix}" if verdict.known else said


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
