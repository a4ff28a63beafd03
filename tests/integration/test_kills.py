"""kill -9 of anything, in the middle of the start and while serving: nothing is left, ps and logs tell the truth, the next start
works.

Each test starts where the one before ended: that its server comes to the state it waits for is the proof that the kill before
left nothing in the way. Open-WebUI runs without an engine behind it here; what is killed in the middle of its start is a first
one, while it changes its database.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable

import pytest

from labkit.cli import main
from labkit.common.settings import settings
from labkit.serving.process_table import process_row, process_table
from labkit.serving.temporary import FOLDER
from labkit.webui import page
from labkit.webui.data import data

from .conftest import ENGINES, LEAST_PROCESSES, PAGE, Kernel, wait_until

GONE_SECONDS = 10
SERVERS = [*ENGINES, PAGE]
VICTIMS = ["kernel", "engine", "watcher", "keeper"]
REASONS = {"kernel": "owner gone", "engine": "exited", "watcher": "watcher died", "keeper": "keeper died"}


def members(engine: int) -> list[int]:
    """All processes of the engine's session: the workers of both engines stay in it, whatever they call themselves."""
    return [row.pid for row in process_table() if row.session == engine and row.alive]


def kill_and_look(kernel: Kernel, victim: str, state: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert state in ps(kernel, capsys)
    engine, before = kernel.pid("engine"), kernel.entry.processes()
    assert set(members(engine)) <= set(before)
    assert len(before) >= LEAST_PROCESSES[kernel.entry.name] or state == "starting", "its workers are seen"
    assert litter(kernel) or state == "starting" or kernel.entry.name == PAGE, "the engine's sockets are in its own folder"
    os.kill(kernel.pid(victim), signal.SIGKILL)
    gone = wait_until(lambda: not members(engine) and not [pid for pid in before if is_live(pid)], GONE_SECONDS)
    assert gone, f"left after {GONE_SECONDS} s: {[pid for pid in before if is_live(pid)]}"
    assert wait_until(lambda: not kernel.entry.status().alive, GONE_SECONDS)
    assert not litter(kernel)
    row = ps(kernel, capsys)
    assert "ended" in row and REASONS[victim] in row
    for kind, words in (("out", []), ("err", ["-e"])):
        assert last_line(shown(["logs", kernel.entry.name, *words], capsys)) == last_line(kernel.log(kind)), f"its own {kind} log"
    assert kernel.log("out") or kernel.log("err")


def litter(kernel: Kernel) -> list[str]:
    """Files and sockets in the server's folder for temporary ones."""
    folder = kernel.entry.folder / FOLDER
    return [path.name for path in folder.iterdir() if not path.is_dir()] if folder.exists() else []


def ps(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> str:
    """The line of `./lab ps` that is about this server."""
    rows = [line for line in shown(["ps"], capsys).splitlines() if line.split()[0] == kernel.entry.name]
    assert len(rows) == 1
    return rows[0]


def shown(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What `./lab WORDS` prints."""
    capsys.readouterr()
    assert main(words) == 0
    return capsys.readouterr().out


def last_line(text: str) -> str:
    return next((line.split("\r")[-1] for line in reversed(text.splitlines()) if line.strip()), "")


def is_live(pid: int) -> bool:
    row = process_row(pid)
    return row is not None and row.alive


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("victim", VICTIMS)
def test_in_the_middle_of_the_start(kernel: Callable[[str], Kernel], name: str, victim: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name == PAGE and data(settings()).written_by:
        shutil.rmtree(data(settings()).folder)  # it was ready before: its next start would have nothing to change
    kill_and_look(kernel(name).until_starting(), victim, "starting", capsys)


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("victim", VICTIMS)
def test_while_serving(kernel: Callable[[str], Kernel], name: str, victim: str, capsys: pytest.CaptureFixture[str]) -> None:
    kill_and_look(kernel(name).until_ready(), victim, "ready", capsys)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_worker_that_is_killed_while_serving_is_noticed(
    kernel: Callable[[str], Kernel], engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    running = kernel(engine).until_ready()
    first = running.pid("engine")
    worker = max(set(members(first)) - {first})
    os.kill(worker, signal.SIGKILL)
    assert wait_until(lambda: not running.entry.status().alive or not members(first), 60), f"{engine} did not end"
    assert "ready" not in ps(running, capsys)


def test_the_page_still_knows_its_account_after_all_of_it(kernel: Callable[[str], Kernel]) -> None:
    kernel(PAGE).until_ready()
    assert page.attach().follow() == []
