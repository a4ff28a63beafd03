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

from labkit.common.errors import StartFailed
from labkit.models.headers import Weights
from labkit.runtimes import environments
from labkit.serving.registry import ServerFolder
from labkit.serving.server import Server

START_SECONDS = 900


ENGINES = {"vllm": {"max_num_seqs": 4}, "sglang": {"max_running_requests": 4}}
"""Each engine that serves a model, with a flag that both mean alike."""


@pytest.fixture(scope="session")
def engine_pythons() -> dict[str, Path]:
    """The engines' environments, made if this machine has none yet."""
    return {engine: environments.python(engine) for engine in ENGINES}


@pytest.fixture(scope="session")
def other_pythons() -> dict[str, str]:
    """The environments of Open-WebUI, of the browser test, of LLaMA-Factory and VERL, made if this machine has none yet."""
    names = ("open_webui", "browser", "llamafactory", "verl")
    return {f"LABKIT_RUNTIME_{name.upper()}": str(environments.python(name)) for name in names}


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, engine_pythons: dict[str, Path], other_pythons: dict[str, str]) -> Iterator[Path]:
    """A data home of its own, with the user's runtimes in it and a free port for each."""
    folder = tmp_path_factory.mktemp("home")
    ours = {"LABKIT_HOME": str(folder), "LABKIT_PROFILE": "tiny"}
    for engine, python in engine_pythons.items():
        ours |= {f"LABKIT_RUNTIME_{engine.upper()}": str(python), f"LABKIT_PORT_{engine.upper()}": str(free_port())}
    ours |= {**other_pythons, "LABKIT_PORT_WEBUI": str(free_port())}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    yield folder
    for name, value in before.items():
        if value is None:
            os.environ.pop(name)
        else:
            os.environ[name] = value


PAGE = "open_webui"
LEAST_PROCESSES = {"vllm": 3, "sglang": 3, PAGE: 1}
"""Of a server that is ready: Open-WebUI is one process, the engines have workers."""


class Kernel:
    """A process that stands for a notebook kernel: it starts one server and then sits there."""

    ENGINE = "import labkit, json, sys, time; labkit.serve(sys.argv[1], 'tiny', **json.loads(sys.argv[2])); time.sleep(3600)"
    PAGE = "import time; from labkit import webui; webui.serve(); time.sleep(3600)"

    def __init__(self, name: str) -> None:
        code = [self.PAGE] if name == PAGE else [self.ENGINE, name, json.dumps(ENGINES[name])]
        self.entry = ServerFolder(name)
        self.started = time.time()
        self.process = subprocess.Popen(
            [sys.executable, "-c", *code], env={**os.environ, "LABKIT_OWNER": "kernel"}, stdin=subprocess.DEVNULL
        )

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
        """The middle of the start: an engine has its second process, and SIGTERM is not handled everywhere yet; Open-WebUI is
        amid the changes to its database, of which there are 66 the first time."""
        if self.entry.name == PAGE:
            self.wait_for(lambda: self.log("err").count("Running upgrade") >= 20)
        else:
            self.wait_for(lambda: self.entry.engine_pid and len(self.entry.processes()) > 2)
        return self

    def log(self, kind: str) -> str:
        """What this start has written to its "out" or "err" log."""
        record = self.entry.record
        if record is None or record.created_at < self.started:
            return ""
        path = Path(getattr(record, kind))
        return path.read_text(errors="replace") if path.exists() else ""

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


@pytest.fixture
def fails(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., StartFailed]:
    """`fails("vllm", cause, **flags)`: a start beside the module's server that has to fail, told within two seconds of its exit with
    the line that matters and a fix; `model` is the course model if nothing else is said."""
    import labkit

    def start(engine: str, cause: str, model: str | Path = "tiny", **flags: Any) -> StartFailed:
        monkeypatch.setenv("LABKIT_HOME", str(home / "failures"))
        with pytest.raises(StartFailed, match=cause) as failure:
            labkit.serve(engine, model, port=free_port(), owner="kernel", **flags)
        ended = ServerFolder(engine).exit
        assert ended and time.time() - ended.ended_at < 2 and failure.value.line and failure.value.fix
        return failure.value

    return start


@pytest.fixture
def cut_model(tmp_path: Path) -> Path:
    """The course model with a weight file that lacks its end."""
    from labkit.models.course_model import make
    from labkit.models.profiles import profile

    folder = make(profile("tiny"), tmp_path / "cut")
    shard = max(folder.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    shard.write_bytes(shard.read_bytes()[:-1000])
    return folder


def listening(server: Server) -> set[str]:
    """The addresses on which the server's processes listen, and whoever else listens at its port."""
    import psutil

    sockets = [one for one in psutil.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    pids = {process.pid for process in server.processes()}
    return {one.laddr.ip for one in sockets if one.pid in pids or one.laddr.port == server.port}


def attached_elsewhere(name: str) -> int:
    """The pid of the server as another process sees it that attaches to it."""
    code = f"import labkit; print(labkit.attach({name!r}).pid)"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


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


def weights(folder: Path) -> dict[str, bytes]:
    """Tensor name -> its bytes, of a model folder."""
    found = {}
    for name, tensor in Weights.read(folder).tensors.items():
        with tensor.file.open("rb") as stream:
            stream.seek(tensor.offset)
            found[name] = stream.read(tensor.bytes)
    return found


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
