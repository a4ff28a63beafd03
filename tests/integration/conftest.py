"""Real engines on this machine. Models, logs and state lie in a folder of the test session; runtimes are the user's."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from labkit import runtimes
from labkit.registry import Entry
from labkit.server import Server

START_SECONDS = 900


ENGINES = {"vllm": {"max_num_seqs": 4}, "sglang": {"max_running_requests": 4}}
"""Each engine that serves a model, with a flag that both mean alike."""


@pytest.fixture(scope="session")
def engine_pythons() -> dict[str, Path]:
    """The engines' environments, made if this machine has none yet."""
    return {engine: runtimes.python(engine) for engine in ENGINES}


@pytest.fixture(scope="session")
def other_pythons() -> dict[str, str]:
    """The environments of Open-WebUI and of the browser test, made if this machine has none yet."""
    return {f"LABKIT_RUNTIME_{name.upper()}": str(runtimes.python(name)) for name in ("open_webui", "browser")}


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, engine_pythons: dict[str, Path], other_pythons: dict[str, str]) -> Iterator[Path]:
    """A data home of its own, with the user's runtimes in it and a free port for each."""
    folder = tmp_path_factory.mktemp("home")
    ours = {"LABKIT_HOME": str(folder), "LABKIT_PROFILE": "tiny"}
    for engine, python in engine_pythons.items():
        ours |= {f"LABKIT_RUNTIME_{engine.upper()}": str(python), f"LABKIT_PORT_{engine.upper()}": str(free_port())}
    ours |= other_pythons
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

    CODE = "import labkit, json, sys, time; labkit.serve(sys.argv[1], 'tiny', **json.loads(sys.argv[2])); time.sleep(3600)"

    def __init__(self, engine: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.CODE, engine, json.dumps(ENGINES[engine])],
            env={**os.environ, "LABKIT_OWNER": "kernel"},
            stdin=subprocess.DEVNULL,
        )
        self.entry = Entry(engine)

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
def kernel(home: Path) -> Iterator[Callable[[str], Kernel]]:
    """Kernels are made by `kernel("vllm")`; at the end of the test they are gone, with their servers."""
    made: list[Kernel] = []

    def make(engine: str) -> Kernel:
        made.append(Kernel(engine))
        return made[-1]

    yield make
    for each in made:
        each.end()
        wait_until(lambda each=each: not each.entry.status().alive, 20)


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    """One ready vLLM with the course model for a whole module: a start costs about 70 CPU-seconds."""
    import labkit

    started = labkit.serve("vllm", "tiny", owner="kernel", **ENGINES["vllm"])
    yield started
    started.stop()


def ask(server: Server, path: str, body: dict[str, object] | None = None, key: str | None = None) -> tuple[int, Any]:
    """(status, JSON or text) of a request with the server's key, or with `key` ("" for none)."""
    sent = server.key if key is None else key
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {sent}"} if sent else {})
    request = urllib.request.Request(server.url + path, json.dumps(body).encode() if body is not None else None, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, read(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, read(error.read())


def read(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content.decode()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(true: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
