"""The processes that own an engine: whatever the engine forks ends with it, however anything dies.

    kernel or ./lab  --pipe-->  watcher  --pipe-->  keeper  -->  engine  -->  workers ...

Watcher and keeper are one small program run twice. Both are child subreapers (prctl(2), PR_SET_CHILD_SUBREAPER), so that
a worker whose parent died becomes theirs, even one in a session of its own. Each notices the other's death through a
pipe: a killed keeper leaves its orphans to the watcher, a killed watcher makes the keeper end the engine. With owner
"kernel" the watcher also holds a pipe from the notebook kernel and ends everything when that closes; SIGKILL closes
pipes too, which is why this works where atexit handlers and signals do not.

Nothing is waited for without an end: a process that SIGKILL does not end (hanging in a driver) is written down and left.

Covers: starting the engine, ending its whole tree, tidying up, writing down which processes there are and how it ended.
Does not cover: ports, readiness, logs, memory: see `server`; both guards killed in the same instant: `sentry`. All three killed at
once leave the engine to the kernel's parent-death signal (SIGTERM to its first process); `./lab ps` then shows what is left, by the
mark in its environment.

A program of its own (`guards.PROGRAM`), standard library and its neighbours only, so that it starts in milliseconds and needs no
environment; its arguments are SPEC.json and, with owner "kernel", the descriptor of the pipe.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

from . import temporary
from .exits import KILL_SECONDS, ROOM, ROOM_BYTES, SWEEP_SECONDS, Exit, Spec, write_ending, write_exit, write_json
from .process_table import MARK, descendants, signal_process, start_ticks
from .sentry import post

SET_CHILD_SUBREAPER, SET_PDEATHSIG = 36, 1
TICK_SECONDS = 1.0
"""How often the guards look round without being woken; signals and closing pipes wake them at once."""
REPEAT_SECONDS = 5.0
"""SIGTERM is said again so often: vLLM swallows one while its engine process comes up."""
HURRY_SECONDS = 3.0
"""The grace when the owner, the watcher or the engine's first process is gone."""
LINGER_SECONDS = 1.0
OWNER_GONE = signal.SIGUSR1
IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""SIGQUIT because SGLang's workers send it to their parent when they fail, and with the engine gone that is a guard."""
REQUESTS: dict[int, str] = {signal.SIGTERM: "stopped", OWNER_GONE: "owner gone"}
"""Signals to the keeper, and the reason each stands for."""


class Guard:
    """The part that watcher and keeper share: subreaper, signals as bytes in a pipe, one child, one lifeline."""

    def __init__(self, spec: Spec, lifeline: int | None) -> None:
        self.spec, self.lifeline = spec, lifeline
        self.request = ""
        self.child_status: int | None = None
        self._wake, wake_write = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(wake_write, False)
        _prctl(SET_CHILD_SUBREAPER, 1)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (*REQUESTS, signal.SIGCHLD):
            signal.signal(number, self._signalled)
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self.request = self.request or REQUESTS.get(number, "")

    def reap(self, child: int) -> bool:
        """Collect every dead child; remember the status of the one that counts. True if no child is left, dead or alive.

        Then nothing is left below either, because a subreaper's orphans become its children. Only the kernel can say that:
        a walk through /proc misses what moves while it reads.
        """
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == child:
                self.child_status = os.waitstatus_to_exitcode(status)

    def wait(self, seconds: float) -> bool:
        """Sleep until something happens or `seconds` have passed; True if the lifeline closed."""
        watched = [self._wake] + ([self.lifeline] if self.lifeline is not None else [])
        ready, _, _ = select.select(watched, [], [], seconds)
        if self._wake in ready:
            os.read(self._wake, 4096)
        return self.lifeline in ready and os.read(self.lifeline, 1) == b"" if self.lifeline is not None else False

    def sweep(self, child: int) -> tuple[int, tuple[tuple[int, int], ...]]:
        """Kill everything below until nothing is left, or for `KILL_SECONDS`; returns how many had to be killed, and who is left."""
        killed: set[int] = set()
        deadline = time.monotonic() + KILL_SECONDS
        while not self.reap(child):
            left = descendants(os.getpid())
            for pid in left:
                signal_process(pid, signal.SIGKILL)
            killed.update(left)
            if time.monotonic() > deadline:
                return len(killed), tuple((pid, start_ticks(pid)) for pid in left)
            time.sleep(SWEEP_SECONDS)
        return len(killed), ()


def keep(spec: Spec, lifeline: int, sentry: int) -> None:
    """The keeper: start the engine, wait for a reason to end it, end its tree, write down how it went."""
    guard = Guard(spec, lifeline)
    guardian, began = os.getppid(), time.time()
    try:
        spec.path(ROOM).write_text(" " * ROOM_BYTES)
        engine = _start(spec)
    except OSError as error:
        _not_started(spec, error)
        return
    pids = {"watcher": guardian, "keeper": os.getpid(), "sentry": sentry, "engine": engine}
    started = {f"{who}_started": start_ticks(pid) for who, pid in pids.items()}
    try:
        write_json(spec.path("pids.json"), pids | started)
    except OSError as error:  # nobody could tell whose processes they are
        guard.sweep(engine)
        _not_started(spec, error)
        return
    reason = ""
    while not reason:
        closed = guard.wait(TICK_SECONDS)
        guard.reap(engine)
        if guard.child_status is not None:
            reason = "exited"
        elif closed:
            reason = "watcher died"
        else:
            reason = guard.request
    ended = end(guard, engine, reason)
    temporary.tidy(Path(spec.folder), began)
    write_exit(spec, ended)


def end(guard: Guard, engine: int, reason: str) -> Exit:
    """SIGTERM to the engine's first process, a grace for its tree to go, then SIGKILL to what is left.

    The grace is the spec's when somebody asked for a stop; with nobody waiting any more it is short.
    """
    write_ending(Path(guard.spec.folder), reason, guard.spec.mark)
    started = said = time.monotonic()
    lingering = False
    if guard.child_status is None:
        signal_process(engine, signal.SIGTERM)
    guard.lifeline = None  # it may have closed: waiting for it again would return at once
    grace = guard.spec.grace_seconds if reason == "stopped" else HURRY_SECONDS
    deadline = started + grace
    while not guard.reap(engine) and time.monotonic() < deadline:
        if guard.child_status is not None and not lingering:  # the first process is gone: its workers get a moment to follow
            lingering, deadline = True, min(deadline, time.monotonic() + LINGER_SECONDS)
        if guard.child_status is None and time.monotonic() - said > REPEAT_SECONDS:
            said = time.monotonic()
            signal_process(engine, signal.SIGTERM)
        guard.wait(SWEEP_SECONDS)
    killed, left = guard.sweep(engine)
    return Exit(guard.child_status, reason, time.time(), round(time.monotonic() - started, 3), killed, left=left)


def watch(spec: Spec, lifeline: int | None) -> None:
    """The watcher: start the keeper, pass on requests to stop, and clean up after a keeper that was killed."""
    began = time.time()
    try:
        sentry = post(spec, began)
        read_end, write_end = os.pipe()
        keeper = os.fork()
    except OSError as error:
        _not_started(spec, error)
        return
    if keeper == 0:
        os.close(write_end)
        signal.set_wakeup_fd(-1)
        keep(spec, read_end, sentry)
        os._exit(0)
    os.close(read_end)
    guard = Guard(spec, lifeline)
    while guard.child_status is None:
        if guard.wait(TICK_SECONDS):
            guard.lifeline = None
            signal_process(keeper, OWNER_GONE)
        if guard.request:
            guard.request = ""
            signal_process(keeper, signal.SIGTERM)
        guard.reap(keeper)
    signal_process(sentry, signal.SIGKILL)
    with suppress(ChildProcessError):  # it was dead, and is collected
        os.waitpid(sentry, 0)
    _conclude(spec, guard, keeper, began)


def _conclude(spec: Spec, guard: Guard, keeper: int, began: float) -> None:
    """Kill what the keeper left and, if it did not live to write down the end, do so."""
    started = time.monotonic()
    killed, left = guard.sweep(keeper)
    temporary.tidy(Path(spec.folder), began)
    if not spec.path("exit.json").exists():
        write_exit(spec, Exit(None, "keeper died", time.time(), round(time.monotonic() - started, 3), killed, left=left))


def _not_started(spec: Spec, error: OSError) -> None:
    write_exit(spec, Exit(None, "not started", time.time(), error=str(error)))


def _start(spec: Spec) -> int:
    """Fork the engine in its own session, with SIGTERM as its parent-death signal; returns its pid."""
    temporary.tidy(Path(spec.folder))  # after guards that were both killed
    environment = {**os.environ, **temporary.environment(Path(spec.folder)), MARK: spec.mark, "SPT_NOENV": "1"}
    with open(spec.stdout, "ab") as out, open(spec.stderr, "ab") as err:
        process = subprocess.Popen(
            spec.command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
    process.returncode = 0  # the guard reaps: Popen must not warn or wait
    return process.pid


def _die_with_parent() -> None:
    _prctl(SET_PDEATHSIG, signal.SIGTERM)
    for number in IGNORED:  # an ignored signal would stay ignored in the engine
        signal.signal(number, signal.SIG_DFL)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def main(arguments: list[str]) -> None:
    """Be the watcher of the server that SPEC.json describes."""
    path = Path(arguments[0])
    try:
        spec = Spec(**json.loads(path.read_text()))
    except OSError as error:
        _not_started(Spec([], str(path.parent), "", ""), error)
        return
    watch(spec, int(arguments[1]) if len(arguments) > 1 else None)
