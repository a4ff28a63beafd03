"""The third guard: ends what two guards that were killed in one instant have left. Standard library only.

It waits for nothing but the end of both, told by a pipe that they alone hold open, and finds the engine's processes by the mark in their
environment. It is forked before the engine is started, and is the first that the watcher kills at an end that goes as it should.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from . import temporary
from .exits import KILL_SECONDS, SWEEP_SECONDS, Exit, Spec, write_exit
from .process_table import marked, signal_process, start_ticks

IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM)


def post(spec: Spec, began: float) -> int:
    """Fork the sentry of `spec`, whose start began at `began`; returns its pid.

    From now on this process and its forks hold the pipe that it waits on. Programs that they start do not: descriptors are closed in them.
    """
    read_end, write_end = os.pipe()
    sentry = os.fork()
    if sentry == 0:
        os.close(write_end)
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)
        os.read(read_end, 1)
        _clear(spec, began)
        os._exit(0)
    os.close(read_end)
    return sentry


def _clear(spec: Spec, began: float) -> None:
    """Kill all that bears the mark, unless the end was written down; then write it down."""
    if spec.path("exit.json").exists() or not spec.mark:
        return
    started, killed = time.monotonic(), set[int]()
    while (left := marked(spec.mark)) and time.monotonic() < started + KILL_SECONDS:
        for pid in left:
            signal_process(pid, signal.SIGKILL)
        killed.update(left)
        time.sleep(SWEEP_SECONDS)
    temporary.tidy(Path(spec.folder), began)
    rows = tuple((pid, start_ticks(pid)) for pid in left)
    write_exit(spec, Exit(None, "guards died", time.time(), round(time.monotonic() - started, 3), len(killed), left=rows))
