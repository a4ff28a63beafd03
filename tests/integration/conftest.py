"""Real engines on this machine. Models, logs and state lie in a folder of the test session; runtimes are the user's."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labkit import runtimes
from labkit.registry import Entry
from labkit.server import Server

START_SECONDS = 900


@pytest.fixture(scope="session")
def engine_python() -> Path:
    """The vLLM environment, made if this machine has none yet."""
    return runtimes.python("vllm")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, engine_python: Path) -> Iterator[Path]:
    """A data home of its own, with the user's runtime in it and a free port."""
    folder = tmp_path_factory.mktemp("home")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ours = {"LABKIT_HOME": str(folder), "LABKIT_RUNTIME_VLLM": str(engine_python), "LABKIT_PORT_VLLM": str(port), "LABKIT_PROFILE": "tiny"}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    yield folder
    for name, value in before.items():
        if value is None:
            os.environ.pop(name)
        else:
            os.environ[name] = value


class Kernel:
    """A process that stands for a notebook kernel: it runs labkit.serve and then sits there."""

    CODE = "import labkit, sys, time; labkit.serve('vllm', 'tiny', max_num_seqs=4); time.sleep(3600)"

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.CODE], env={**os.environ, "LABKIT_OWNER": "kernel"}, stdin=subprocess.DEVNULL
        )
        self.entry = Entry("vllm")

    def wait_for(self, true: Callable[[], object], seconds: float = START_SECONDS) -> None:
        """Wait until something holds, as long as the kernel lives."""
        deadline = time.monotonic() + seconds
        while not true():
            assert self.process.poll() is None, "the kernel ended"
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.1)

    def until_ready(self) -> Kernel:
        self.wait_for(lambda: self.entry.status().state == "ready")
        return self

    def until_starting(self) -> Kernel:
        """The engine's second process is there: the middle of the start, before SIGTERM is handled everywhere."""
        self.wait_for(lambda: self.entry.engine_pid and len(self.entry.processes()) > 2)
        return self

    def pid(self, who: str) -> int:
        """The pid of "kernel", "engine", "watcher" or "keeper"."""
        pids = json.loads((self.entry.folder / "pids.json").read_text())
        return {**pids, "kernel": self.process.pid}[who]

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def kernel(home: Path) -> Iterator[Callable[[], Kernel]]:
    made: list[Kernel] = []

    def make() -> Kernel:
        made.append(Kernel())
        return made[-1]

    yield make
    for each in made:
        each.end()
    wait_until(lambda: not Entry("vllm").status().alive, 20)


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    """One ready vLLM with the course model for a whole module: a start costs about 70 CPU-seconds."""
    import labkit

    started = labkit.serve("vllm", "tiny", owner="kernel", max_num_seqs=4)
    yield started
    started.stop()


def wait_until(true: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
