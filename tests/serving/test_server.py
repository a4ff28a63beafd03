"""The server contract with a stand-in engine: real processes, real ports, no model."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from labkit.common.errors import LabError, MemoryHeld, NotRunning, PortInUse, StartFailed
from labkit.common.logs import Explanation, Stage
from labkit.common.settings import settings
from labkit.engines.engine import Engine
from labkit.serving import held_memory
from labkit.serving.registry import Record, ServerFolder, is_alive
from labkit.serving.server import Server, start
from labkit.serving.supervisor import write_json

ENGINE = Engine(
    name="fake",
    title="Fake",
    runtime="fake",
    module=(),
    port_variable="LABKIT_PORT_FAKE",
    key_variable="FAKE_KEY",
    stages=(Stage("importing", "", 1, 1), Stage("loading", "loading", 1, 1), Stage("serving", "serving", 1, 1)),
    explanations=(Explanation(r"bad flag (\S+)", "It does not know {0}.", "Leave {0} out."),),
    grace_seconds=5.0,
)
FAKE = str(Path(__file__).parents[1] / "fake_engine.py")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    monkeypatch.setenv("LABKIT_DEVICE", "cpu")
    return tmp_path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Begin = Callable[..., Server]


@pytest.fixture
def begin(home: Path) -> Iterator[Begin]:
    """Start the stand-in with further words on its command line; whatever still runs is stopped after the test."""
    made: list[Server] = []

    def start_one(*words: str, port: int | None = None, owner: str = "kernel", device: str = "cpu") -> Server:
        where, number = settings(), port or free_port()
        record = Record(
            name="fake",
            engine="fake",
            command=[sys.executable, FAKE, str(number), *words],
            shown="",
            port=number,
            model="m",
            source="",
            key_file=str(where.key_file("fake")),
            out=str(where.logs / "fake" / "1.out.log"),
            err=str(where.logs / "fake" / "1.err.log"),
            owner=owner,
            device=device,
        )
        made.append(start(ENGINE, record, {"FAKE_KEY": where.key("fake")}))
        return made[-1]

    yield start_one
    for server in made:
        server.stop()


def test_ready_means_a_token_came_back_and_stages_are_timed(begin: Begin) -> None:
    server = begin("--slow", "1").wait(30)
    assert server.state == "ready" and server.alive and server.answers()
    assert [name for name, _ in server.stages] == ["importing", "loading", "serving"]
    assert server.pid in [process.pid for process in server.processes()] and len(server.processes()) == 2


def test_stop_reports_that_nothing_is_left(begin: Begin) -> None:
    server = begin().wait(30)
    pids = [process.pid for process in server.processes()]
    report = server.stop()
    assert (report.processes_left, report.returned, report.memory_after) == (0, True, 0) and report.memory_before > 0
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
    assert server.state == "ended" and not server.answers()


def test_stopping_twice_is_no_error(begin: Begin) -> None:
    server = begin().wait(30)
    server.stop()
    assert server.stop().returned


def test_a_second_server_object_sees_the_same_server(begin: Begin) -> None:
    first = begin(owner="lab").wait(30)
    second = Server(ENGINE, ServerFolder("fake"))
    assert (second.state, second.pid, second.url, second.key) == ("ready", first.pid, first.url, first.key)


def test_a_start_beside_a_running_one_is_refused(begin: Begin) -> None:
    begin().wait(30)
    with pytest.raises(LabError, match="already ready"):
        begin()


def test_an_exit_is_explained_with_the_line_that_matters(begin: Begin) -> None:
    server = begin("--fail", "error: bad flag --x", "2")
    with pytest.raises(StartFailed) as failure:
        server.wait(30)
    assert failure.value.cause.startswith("It does not know --x.") and failure.value.fix == "Leave --x out."
    assert failure.value.line == "error: bad flag --x" and failure.value.log == str(server.errors)
    assert not server.alive


def test_an_unknown_exit_names_code_line_and_log(begin: Begin) -> None:
    with pytest.raises(StartFailed, match="exited with code 5") as failure:
        begin("--fail", "ValueError: never seen before", "5").wait(30)
    assert failure.value.line == "ValueError: never seen before"


def test_health_without_a_token_is_not_ready(begin: Begin) -> None:
    server = begin("--no-token")
    with pytest.raises(StartFailed, match="one token did not come back.*EngineDeadError"):
        server.wait(30)
    assert not server.alive


def test_a_start_that_takes_too_long_is_stopped(begin: Begin) -> None:
    server = begin("--slow", "60")
    with pytest.raises(StartFailed, match="was at: loading"):
        server.wait(1.5)
    assert not server.alive


def test_a_busy_port_is_found_before_anything_starts(begin: Begin, home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PortInUse, match=f"pid {os.getpid()}") as failure:
            begin(port=taken.getsockname()[1])
    assert "LABKIT_PORT_FAKE" in failure.value.fix and not (home / "state/servers/fake/server.json").exists()


class Foreign(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()


def test_another_server_on_the_port_cannot_pass_for_ours(begin: Begin) -> None:
    port = free_port()
    server = begin("--slow", "60", port=port)
    foreign = HTTPServer(("127.0.0.1", port), Foreign)
    Thread(target=foreign.serve_forever, daemon=True).start()
    try:
        with pytest.raises(StartFailed, match="not from our processes"):
            server.wait(30)
    finally:
        foreign.shutdown()
        foreign.server_close()


@pytest.mark.parametrize("victim", ["engine", "watcher", "keeper"])
def test_after_kill_9_the_record_tells_the_truth_and_the_next_start_works(begin: Begin, victim: str) -> None:
    server = begin().wait(30)
    entry = ServerFolder("fake")
    pids = {"engine": entry.engine_pid, "watcher": entry.guards()[0], "keeper": entry.guards()[1]}
    os.kill(pids[victim], signal.SIGKILL)
    deadline = time.monotonic() + 10
    while entry.status().alive:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not server.processes() and not server.answers()
    assert begin().wait(30).state == "ready"


def test_strays_of_killed_guards_are_named_refused_and_ended_by_stop(begin: Begin) -> None:
    server = begin(owner="lab").wait(30)
    leader = server.pid
    os.kill(leader, signal.SIGSTOP)  # so that the parent-death signal cannot end it first
    watcher, keeper = ServerFolder("fake").guards()
    os.kill(watcher, signal.SIGSTOP)
    os.kill(keeper, signal.SIGKILL)
    os.kill(watcher, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while server.state != "stray":
        assert time.monotonic() < deadline, server.state
        time.sleep(0.05)
    assert str(leader) in ServerFolder("fake").status().note
    with pytest.raises(LabError, match=str(leader)):
        begin()
    assert server.stop().processes_left == 0


def test_owner_kernel_ends_with_the_process_that_started_it(home: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "import test_server as t, os, signal\n"
        "from labkit.serving.server import start\n"
        "where = t.settings(); port = t.free_port()\n"
        "record = t.Record('fake', 'fake', [sys.executable, t.FAKE, str(port)], '', port, 'm', '', str(where.key_file('fake')),\n"
        "    str(where.logs / 'fake/1.out.log'), str(where.logs / 'fake/1.err.log'), 'kernel', 'cpu')\n"
        "start(t.ENGINE, record, {'FAKE_KEY': where.key('fake')}).wait(30)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    here = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", code, str(here), str(here.parent)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    entry = ServerFolder("fake")
    deadline = time.monotonic() + 10
    while entry.status().alive:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert entry.exit and entry.exit.reason == "owner gone"


def test_a_server_of_another_home_leaves_this_one_alone(begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = begin().wait(30)
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "another"))
    begin().wait(30).stop()
    time.sleep(2)
    assert first.state == "ready" and first.answers()


def test_the_key_is_in_no_file_but_its_own_and_in_no_command_line(begin: Begin, home: Path) -> None:
    server = begin().wait(30)
    holders = [path for path in home.rglob("*") if path.is_file() and server.key.encode() in path.read_bytes()]
    assert holders == [server.key_file] and server.key_file.stat().st_mode & 0o777 == 0o600
    assert not [process for process in server.processes() if server.key in " ".join(process.cmdline())]


def test_attaching_to_nothing_says_how_to_start() -> None:
    with pytest.raises(NotRunning, match="lab up fake"):
        Server(ENGINE, ServerFolder("fake"))


def test_memory_that_did_not_come_back_stops_the_next_start(begin: Begin, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = 5 * 2**30
    (home / "state").mkdir()
    write_json(home / "state" / "memory-held.json", {"baseline": [2**30]})
    monkeypatch.setattr(held_memory, "memory_used", lambda: [2**30 + held])
    with pytest.raises(MemoryHeld, match="5.0 GiB"):
        begin(device="gpu")
    monkeypatch.setattr(held_memory, "memory_used", lambda: [2**30])
    assert begin(device="gpu").wait(30).state == "ready"


def test_a_server_without_gpu_is_not_asked_for_the_memory_that_an_engine_took_meanwhile(
    begin: Begin, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Open-WebUI is often started first and stopped while an engine holds the card."""
    monkeypatch.setattr(held_memory, "memory_used", lambda: [2**30])
    page = begin().wait(30)
    monkeypatch.setattr(held_memory, "memory_used", lambda: [100 * 2**30])
    write_json(home / "state" / "memory-held.json", {"baseline": [2**30]})
    assert page.stop().returned and (home / "state" / "memory-held.json").exists(), "what an engine left is still remembered"
    assert begin().wait(30).state == "ready"


def test_a_pid_that_came_back_is_not_mistaken() -> None:
    assert not is_alive(os.getpid(), 1)
