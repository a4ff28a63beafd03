"""The server contract with a stand-in engine: real processes, real ports, no model."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from fake_server import ENGINE, free_port

from labkit.common.errors import LabError, NotRunning, PortInUse, StartFailed
from labkit.serving import guards, stopping
from labkit.serving.process_table import is_alive, start_ticks
from labkit.serving.registry import ServerFolder
from labkit.serving.server import Server
from labkit.serving.starting import failure
from labkit.serving.supervisor import Exit

Begin = Callable[..., Server]


@pytest.fixture(autouse=True)
def own_home(home: Path) -> None:
    """Every test here has its own."""


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
    server = begin("--fail", "OSError: [Errno 28] No space left on device: '/data/x'", "2")
    with pytest.raises(StartFailed) as failure:
        server.wait(30)
    assert failure.value.cause.startswith("A disk is full. The file was /data/x.") and "df -h" in failure.value.fix
    assert failure.value.line.startswith("OSError: [Errno 28]") and failure.value.log == str(server.errors)
    assert not server.alive


def test_an_unknown_exit_names_code_line_and_log(begin: Begin) -> None:
    with pytest.raises(StartFailed, match="exited with code 5") as failure:
        begin("--fail", "ValueError: never seen before", "5").wait(30)
    assert failure.value.line == "ValueError: never seen before" and "does not know this failure" in failure.value.cause
    assert failure.value.log in failure.value.fix and failure.value.log.endswith(".err.log")


def test_the_log_that_has_the_line_is_named(begin: Begin, tmp_path: Path) -> None:
    """An engine writes its errors to standard output or to standard error; the other log is often empty."""
    out, err = tmp_path / "1.out.log", tmp_path / "1.err.log"
    out.write_text("(EngineCore pid=7) ERROR 11-26 10:00:00 [core.py:700] RuntimeError: UVA is not available\n")
    err.write_text("(APIServer pid=6) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n")
    told = failure(begin().wait(30), out, err, Exit(1, "exited", 0.0))
    assert told.log == str(out) and "UVA is not available" in told.line and "labkit does not know" not in told.cause


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


def test_owner_kernel_ends_with_the_process_that_started_it(home: Path) -> None:
    code = (
        "import os, signal, sys; sys.path[:0] = sys.argv[1:3]\n"
        "import fake_server; fake_server.begin().wait(30)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    tests = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code, str(tests), str(tests.parent)], capture_output=True, text=True)
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
    with pytest.raises(NotRunning, match="lab up ENGINE MODEL --name fake"):
        Server(ENGINE, ServerFolder("fake"))


def test_a_pid_that_came_back_is_not_mistaken() -> None:
    assert not is_alive(os.getpid(), 1)


def test_two_servers_of_one_engine_run_side_by_side_and_stop_one_by_one(begin: Begin) -> None:
    first, second = begin(name="fake").wait(30), begin(name="draft").wait(30)
    assert first.port != second.port and first.key != second.key and first.log.parent != second.log.parent
    assert not {p.pid for p in first.processes()} & {p.pid for p in second.processes()}
    assert first.stop().returned and (first.state, second.state) == ("ended", "ready")
    assert second.answers() and second.stop().processes_left == 0


def test_a_port_that_was_given_to_a_server_which_is_still_starting_is_its_own(begin: Begin) -> None:
    first = begin("--slow", "3", name="first")
    with pytest.raises(PortInUse, match="belongs to the server 'first'"):
        begin(name="second", port=first.port)


def test_stop_comes_back_from_guards_that_do_not_answer(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "SPARE_SECONDS", 0.0)
    monkeypatch.setattr(stopping, "KILL_SECONDS", 1.0)
    server = begin().wait(30)
    server.engine = replace(ENGINE, grace_seconds=0.5)
    guards = ServerFolder("fake").guards()
    for guard in guards:
        os.kill(guard, signal.SIGSTOP)
    report = server.stop()
    assert (report.processes_left, report.left, report.signal) == (0, (), "SIGKILL")
    assert server.state == "ended" and not any(is_alive(pid, start_ticks(pid)) for pid in guards)


def test_what_cannot_be_killed_is_reported_by_pid_and_state(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL has no effect here, as on a process that hangs in a driver."""
    monkeypatch.setattr(stopping, "SPARE_SECONDS", 0.0)
    monkeypatch.setattr(stopping, "KILL_SECONDS", 0.3)
    server = begin(owner="lab").wait(30)
    server.engine = replace(ENGINE, grace_seconds=0.2)
    with monkeypatch.context() as patch:
        patch.setattr(stopping, "signal_process", lambda pid, number: None)
        report = server.stop()
    assert not report.returned and report.processes_left == len(report.left) >= 4
    assert any(text.startswith(f"pid {server.pid} (state S") for text in report.left) and report.left[0] in str(report)
    assert server.stop().processes_left == 0


def test_a_server_object_belongs_to_one_start(begin: Begin) -> None:
    """Somebody else stopped it and started another under its name."""
    old = begin(owner="lab").wait(30)
    Server(ENGINE, ServerFolder("fake")).stop()
    new = begin(owner="lab").wait(30)
    assert (old.state, old.alive, old.pid, old.processes()) == ("ended", False, 0, [])
    with pytest.raises(NotRunning, match="another start has taken its name"):
        old.wait(5)
    report = old.stop()
    assert report.processes_left == 0 and (new.state, new.answers()) == ("ready", True), "the newer one goes on"


def test_who_waits_does_not_take_another_start_for_theirs(begin: Begin) -> None:
    waiting = begin("--slow", "60", owner="lab")
    Server(ENGINE, ServerFolder("fake")).stop()
    new = begin(port=waiting.port, owner="lab").wait(30)
    with pytest.raises(StartFailed, match="another start's"):
        waiting.wait(20)
    record = ServerFolder("fake").record
    assert record is not None and record.created_at == new._record.created_at and new.state == "ready"


def test_a_start_that_breaks_off_leaves_no_process_without_a_record(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(guards, "start_ticks", lambda pid: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            begin(owner="lab")
    deadline = time.monotonic() + 10
    while not ServerFolder("fake").processes():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert Server(ENGINE, ServerFolder("fake")).stop().processes_left == 0


def test_a_refused_start_leaves_the_last_record_and_no_folder(begin: Begin, home: Path) -> None:
    running = begin(name="first").wait(30)
    with pytest.raises(PortInUse):
        begin(name="second", port=running.port)
    assert not (home / "state" / "servers" / "second").exists()


def test_waiting_for_what_has_ended_and_a_key_that_is_gone_are_told(begin: Begin) -> None:
    server = begin("--slow", "2")
    server.key_file.unlink()
    with pytest.raises(LabError, match="The key of fake cannot be read"):
        server.wait(30)
    assert server.state == "ended", "it is not left half started"
    other = begin(name="other").wait(30)
    other.stop()
    with pytest.raises(NotRunning, match="has ended: stopped"):
        other.wait(5)
