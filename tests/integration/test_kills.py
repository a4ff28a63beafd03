"""kill -9 of anything, in the middle of the start and while serving: nothing is left, ps tells the truth, the next start works.

Each test starts where the one before ended: that its start works is the proof that the kill before left nothing in the way.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from labkit.cli import main
from labkit.supervisor import process_row, process_table

from .conftest import ENGINES, Kernel, wait_until

GONE_SECONDS = 10
VICTIMS = ["kernel", "engine", "watcher", "keeper"]
REASONS = {"kernel": "owner gone", "engine": "exited", "watcher": "watcher died", "keeper": "keeper died"}


def members(engine: int) -> list[int]:
    """All processes of the engine's session: the workers of both engines stay in it, whatever they call themselves."""
    return [row[0] for row in process_table() if row[3] == engine and row[2] != "Z"]


def kill_and_look(kernel: Kernel, victim: str, capsys: pytest.CaptureFixture[str]) -> None:
    engine, before = kernel.pid("engine"), kernel.entry.processes()
    assert set(members(engine)) <= set(before) and len(before) > 2
    os.kill(kernel.pid(victim), signal.SIGKILL)
    gone = wait_until(lambda: not members(engine) and not [pid for pid in before if is_live(pid)], GONE_SECONDS)
    assert gone, f"left after {GONE_SECONDS} s: {[pid for pid in before if is_live(pid)]}"
    assert wait_until(lambda: not kernel.entry.status().alive, GONE_SECONDS)
    capsys.readouterr()
    main(["ps"])
    port = os.environ[f"LABKIT_PORT_{kernel.entry.name.upper()}"]
    assert f"ended  {port}" in (shown := capsys.readouterr().out) and REASONS[victim] in shown


def is_live(pid: int) -> bool:
    row = process_row(pid)
    return row is not None and row[2] != "Z"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("victim", VICTIMS)
def test_in_the_middle_of_the_start(kernel: Callable[[str], Kernel], engine: str, victim: str, capsys: pytest.CaptureFixture[str]) -> None:
    kill_and_look(kernel(engine).until_starting(), victim, capsys)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("victim", VICTIMS)
def test_while_serving(kernel: Callable[[str], Kernel], engine: str, victim: str, capsys: pytest.CaptureFixture[str]) -> None:
    kill_and_look(kernel(engine).until_ready(), victim, capsys)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_worker_that_is_killed_while_serving_is_noticed(
    kernel: Callable[[str], Kernel], engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    running = kernel(engine).until_ready()
    first = running.pid("engine")
    worker = max(set(members(first)) - {first})
    os.kill(worker, signal.SIGKILL)
    assert wait_until(lambda: not running.entry.status().alive or not members(first), 60), f"{engine} did not end"
    capsys.readouterr()
    main(["ps"])
    assert "ready" not in capsys.readouterr().out
