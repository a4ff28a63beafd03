#!/usr/bin/env python3
"""kill -9 of one process of a server: seconds until its last process is gone and until device memory is back, then a new start.

    .venv/bin/python bench/kill_memory.py [--profile tiny] [--engine vllm sglang open_webui] [--only api,keeper,watcher,kernel]

api: the engine's first process, while serving. keeper: that guard, while the model is loading (Open-WebUI: while it changes its
database). watcher: the other guard, while serving. kernel: the process that called labkit.serve, while serving. Each case begins
with the start that follows the kill before it, and one more start at the end is stopped in order, so every kill is followed by a
start. Memory is back when each GPU is where it was before the first start, give or take what labkit allows; without a GPU there is
only the first time. Looks twenty times a second. Ends with exit code 1 if anything was left after a minute.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from labkit.engines import ENGINES
from labkit.machine import gpu
from labkit.serving import held_memory
from labkit.serving.process_table import process_row
from labkit.serving.registry import ServerFolder
from labkit.serving.server import Server

VICTIMS = ("api", "keeper", "watcher", "kernel")
LOADING = {
    "vllm": "loading the weights",
    "sglang": "loading the weights, allocating the KV cache",
    "open_webui": "bringing its database up to date",
}
"""The stage in which the keeper is killed, or soon after."""
LOADED_BYTES = 2**30
"""And on a GPU only when so much has been taken."""
ENGINE_CODE = "import labkit, sys, time; labkit.serve(sys.argv[1], sys.argv[2]); time.sleep(3600)"
PAGE_CODE = "import time; from labkit import webui; webui.serve(); time.sleep(3600)"
LOOK_SECONDS, LIMIT_SECONDS, START_SECONDS = 0.05, 60.0, 900.0


class Case:
    """One server, started by a process of its own that stands for a notebook kernel."""

    def __init__(self, engine: str, profile: str, baseline: list[int]) -> None:
        self.engine, self.baseline, self.entry = ENGINES[engine], baseline, ServerFolder(engine)
        code = [PAGE_CODE] if engine == "open_webui" else [ENGINE_CODE, engine, profile]
        self.started = time.time()
        self.kernel = subprocess.Popen(
            [sys.executable, "-c", *code],
            env={**os.environ, "LABKIT_OWNER": "kernel"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # it complains when its server is killed while it waits
        )

    def pid(self, victim: str) -> int:
        """The pid that the word stands for."""
        record, guards = self.entry.record, self.entry.guards()
        assert record is not None
        return {"kernel": self.kernel.pid, "api": self.entry.engine_pid, "watcher": record.watcher}.get(victim) or guards[-1]

    def wait(self, true: Callable[[], bool], what: str) -> float:
        """Seconds since the start when `true` first holds; ends the script if it never does."""
        while not true():
            if self.kernel.poll() is not None or time.time() - self.started > START_SECONDS:
                sys.exit(f"{self.engine.title} was never {what}: ./lab logs {self.engine.name} -e says why")
            time.sleep(LOOK_SECONDS)
        return time.time() - self.started

    def ready(self) -> bool:
        return self.entry.status().state == "ready"

    def loading(self) -> bool:
        """Whether the log says that loading has begun and, on a GPU, memory has been taken. Ends the script if that was missed."""
        record = self.entry.record
        if record is None or record.created_at < self.started:
            return False
        if self.ready():
            sys.exit(f"{self.engine.title} was ready before anybody saw it loading")
        text = "".join(Path(path).read_text(errors="replace") for path in (record.out, record.err) if Path(path).exists())
        names = [stage.name for stage in self.engine.stages]
        begun = self.engine.stage_at(text, 0) >= names.index(LOADING[self.engine.name])
        return begun and (not (self.baseline and self.engine.probe) or self.taken() > LOADED_BYTES)

    def taken(self) -> int:
        """Bytes of device memory over the baseline."""
        return sum(gpu.memory_used()) - sum(self.baseline)

    def kill(self, victim: str) -> bool:
        """kill -9 and print what follows; whether everything was gone in time."""
        pids, taken = [*self.entry.processes(), *self.entry.guards()], self.taken()
        os.kill(self.pid(victim), signal.SIGKILL)
        killed, gone, back = time.monotonic(), -1.0, -1.0
        while min(gone, back) < 0 and time.monotonic() - killed < LIMIT_SECONDS:
            if gone < 0 and not any(is_live(pid) for pid in pids) and not self.entry.processes():
                gone = time.monotonic() - killed
            if back < 0 and held_memory.returned(dict(zip((each.uuid for each in gpu.devices()), self.baseline, strict=True))):
                back = time.monotonic() - killed
            time.sleep(LOOK_SECONDS)
        self.kernel.kill()
        self.kernel.wait()
        print(f"processes gone {said(gone)}" + (f", {taken / 2**20:,.0f} MiB back {said(back)}" if self.baseline else ""), flush=True)
        return gone >= 0 and back >= 0


def is_live(pid: int) -> bool:
    row = process_row(pid)
    return row is not None and row[2] != "Z"


def said(seconds: float) -> str:
    return f"after {seconds:.1f} s" if seconds >= 0 else f"NOT within {LIMIT_SECONDS:.0f} s"


def run(engine: str, profile: str, victims: list[str], baseline: list[int]) -> bool:
    """All kills of one engine; whether nothing was left after any of them."""
    fine = True
    for victim in victims:
        case = Case(engine, profile, baseline)
        state = "loading" if victim == "keeper" else "ready"
        seconds = case.wait(case.loading if state == "loading" else case.ready, state)
        print(f"{case.engine.title}: {state} after {seconds:.1f} s; kill -9 of its {victim}: ", end="", flush=True)
        fine = case.kill(victim) and fine
    last = Case(engine, profile, baseline)
    seconds = last.wait(last.ready, "ready")
    report = Server(last.engine, last.entry).stop()
    last.kernel.kill()
    last.kernel.wait()
    print(f"{last.engine.title}: ready after {seconds:.1f} s; {report}", flush=True)
    return fine and report.returned


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--engine", nargs="+", choices=list(LOADING), default=list(LOADING))
    parser.add_argument("--only", default=",".join(VICTIMS), help="comma-separated: " + ",".join(VICTIMS))
    chosen = parser.parse_args()
    victims = chosen.only.split(",")
    if not set(victims) <= set(VICTIMS):
        parser.error(f"--only takes {', '.join(VICTIMS)}")
    baseline = gpu.memory_used()
    print(f"device memory in use before, MiB: {', '.join(f'{used / 2**20:,.0f}' for used in baseline) or 'no GPU'}")
    sys.exit(0 if all([run(engine, chosen.profile, victims, baseline) for engine in chosen.engine]) else 1)


if __name__ == "__main__":
    main()
