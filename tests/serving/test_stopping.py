"""A stop that is under way, and servers whose record was lost: both are seen, and neither is in the way for long."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
from fake_server import ENGINE

from labkit import cli
from labkit.common.errors import LabError, NotRunning, StartFailed
from labkit.engines import ENGINES
from labkit.serving.exits import ENDING, ROOM
from labkit.serving.process_table import descendants
from labkit.serving.registry import RECORD, SPEC, ServerFolder, entries
from labkit.serving.server import Server, attach, down, shutdown

Begin = Callable[..., Server]


@pytest.fixture(autouse=True)
def own_home(home: Path) -> Iterator[None]:
    """Every test here has its own, and leaves nothing in it that runs."""
    yield
    with suppress(LabError):
        shutdown()


def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def stop_aside(server: Server) -> Thread:
    """A stop in a thread of its own; returns when it can be seen."""
    thread = Thread(target=server.stop)
    thread.start()
    until(lambda: server.state != "ready")
    return thread


def test_a_stop_is_seen_from_before_the_first_signal_on(begin: Begin, capsys: pytest.CaptureFixture[str]) -> None:
    server = begin("--deaf", owner="lab").wait(30)
    server.engine = replace(ENGINE, grace_seconds=2.0)
    thread = stop_aside(server)
    assert server.state == "stopping" and server.alive
    cli.main(["ps"])
    assert "stopping" in capsys.readouterr().out
    thread.join()
    assert server.state == "ended"


def test_a_start_waits_for_the_stop_before_it(begin: Begin) -> None:
    server = begin("--deaf", owner="lab").wait(30)
    thread = stop_aside(server)
    second = begin(owner="lab").wait(30)
    thread.join()
    assert (server.state, second.state) == ("ended", "ready") and second.answers()


def test_a_start_that_is_stopped_says_so_and_blames_no_memory(begin: Begin) -> None:
    server = begin("--slow", "20", "--deaf", owner="lab")
    told: list[LabError] = []

    def wait() -> None:
        try:
            server.wait(60)
        except LabError as error:
            told.append(error)

    waiting = Thread(target=wait)
    waiting.start()
    until(lambda: server.pid)
    Server(replace(ENGINE, grace_seconds=0.5), ServerFolder("fake")).stop()
    waiting.join()
    assert isinstance(told[0], StartFailed) and "was stopped while it was starting" in told[0].cause


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\x00\x12", b"[1, 2]", b'{"name": 5}', None], ids=str)
def test_a_record_that_is_lost_hides_no_server(begin: Begin, content: bytes | None, capsys: pytest.CaptureFixture[str]) -> None:
    server = begin(owner="lab").wait(30)
    other = begin(name="other", owner="lab").wait(30)
    pids = [*ServerFolder("fake").guards(), *(process.pid for process in server.processes())]
    path = ServerFolder("fake").folder / RECORD
    path.unlink() if content is None else path.write_bytes(content)
    assert ServerFolder("fake").status().state == "damaged"
    cli.main(["ps"])
    rows = capsys.readouterr().out.splitlines()
    assert any(row.startswith("fake ") and "damaged" in row for row in rows) and any(row.startswith("other ") for row in rows)
    with pytest.raises(NotRunning, match="down fake"):
        attach("fake")
    with pytest.raises(LabError, match="down fake"):
        begin()
    assert "could not be read" in down("fake")
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids) and other.answers()
    assert begin(owner="lab").wait(30).answers()


def test_a_folder_that_is_lost_hides_no_server(begin: Begin) -> None:
    server = begin(owner="lab").wait(30)
    pids = [process.pid for process in server.processes()]
    shutil.rmtree(ServerFolder("fake").folder)
    assert [(entry.name, entry.status().state) for entry in entries()] == [("fake", "damaged")]
    down("fake")
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids) and entries() == []


def test_notes_of_the_guards_that_are_lost_hide_no_server(begin: Begin) -> None:
    server = begin(owner="lab").wait(30)
    (ServerFolder("fake").folder / "pids.json").write_text("[1, 2]")
    (ServerFolder("fake").folder / SPEC).unlink()
    assert server.state == "ready"
    watcher = ServerFolder("fake").guards()[0]
    pids = [watcher, *descendants(watcher)]
    assert server.stop().processes_left == 0 and not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_an_interrupt_between_the_guards_and_their_record_leaves_a_server_that_is_known(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[str] = []
    real = ServerFolder.save

    def interrupted(self: ServerFolder, record: object) -> None:
        saved.append(self.name)
        if len(saved) == 2:
            raise KeyboardInterrupt
        real(self, record)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(ServerFolder, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            begin(owner="lab")
    server = attach_fake()
    assert server.state == "starting" and server.wait(30).answers()
    assert server.stop().processes_left == 0 and not server.alive


def attach_fake() -> Server:
    return Server(ENGINE, ServerFolder("fake"))


def test_down_goes_on_after_a_name_that_does_not_run(begin: Begin, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["down", "nosuch", "../keys"]) == 1
    assert "nosuch" in capsys.readouterr().err


@pytest.mark.parametrize("name", [RECORD, "exit.json", ENDING])
def test_files_of_an_earlier_start_say_nothing_of_this_one(begin: Begin, name: str) -> None:
    """As somebody restores them from a copy, or writes them in the moment in which the name changes hands."""
    begin(owner="lab").wait(30).stop()
    file = ServerFolder("fake").folder / name
    earlier = file.read_bytes()
    server = begin(owner="lab").wait(30)
    file.write_bytes(earlier)
    assert server.state == "ready" and server.answers()
    state = ServerFolder("fake").status().state
    assert state == ("damaged" if name == RECORD else "ready")
    down("fake") if state == "damaged" else server.stop()
    assert not server.alive and not server.processes()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", None], ids=str)
def test_who_started_it_still_knows_it_when_its_record_is_lost(begin: Begin, content: bytes | None) -> None:
    server = begin(owner="lab").wait(30)
    path = ServerFolder("fake").folder / RECORD
    path.unlink() if content is None else path.write_bytes(content)
    assert (server.state, server.alive, len(server.processes())) == ("ready", True, 2)
    report = server.stop()
    assert report.processes_left == 0 and report.memory_before > 0 and not server.alive


@pytest.mark.parametrize("name", [RECORD, SPEC, "pids.json", "exit.json", ENDING])
def test_a_folder_in_the_place_of_a_file_hinders_no_start(begin: Begin, name: str) -> None:
    begin(owner="lab").wait(30).stop()
    file = ServerFolder("fake").folder / name
    file.unlink(missing_ok=True)
    (file / "inside").mkdir(parents=True)
    assert not ServerFolder("fake").status().alive
    assert begin(owner="lab").wait(30).answers()


def test_what_three_killed_guards_left_is_cleared_by_whoever_comes_next(begin: Begin) -> None:
    server = begin(owner="lab").wait(30)
    folder = ServerFolder("fake").folder
    pids = json.loads((folder / "pids.json").read_text())
    (folder / "tmp" / "left").touch()
    for who in ("watcher", "sentry", "keeper"):
        os.kill(pids[who], signal.SIGSTOP)
    for who in ("watcher", "sentry", "keeper"):
        os.kill(pids[who], signal.SIGKILL)
    until(lambda: not ServerFolder("fake").guards())
    assert (folder / ROOM).exists()
    server.stop()
    assert not server.processes() and list((folder / "tmp").iterdir()) == [] and not (folder / ROOM).exists()


def test_ps_says_ready_of_a_server_that_nobody_waits_for(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = begin("--slow", "1", owner="lab")
    monkeypatch.setitem(ENGINES, "fake", server.engine)

    def row() -> str:
        cli.main(["ps"])
        return capsys.readouterr().out.splitlines()[-1]

    assert "starting" in row()
    until(server.answers)
    assert " ready " in row()
