"""The guards, with small Python trees in place of an engine: whoever dies, nothing is left."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from labkit.serving import temporary
from labkit.serving.exits import ROOM, Spec, write_json
from labkit.serving.guards import PROGRAM
from labkit.serving.process_table import descendants, marked, process_row, process_table
from labkit.serving.supervisor import TICK_SECONDS

TREE = """
import os, subprocess, sys, time
leaf = "import time; time.sleep(600)"
middle = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {leaf!r}], start_new_session=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", middle], start_new_session=True)
open(sys.argv[1], "w").write("up")
time.sleep(600)
"""
"""An engine with a worker in a session of its own, which has a worker in a session of its own."""


class Run:
    """One supervised tree, and the pipe that stands for the kernel."""

    def __init__(self, folder: Path, command: list[str], *, owned: bool = True, grace: float = 5.0) -> None:
        self.folder = folder
        self.mark = str(folder / "up")
        self.spec = Spec([*command, self.mark], str(folder), str(folder / "out"), str(folder / "err"), grace, secrets.token_hex(8))
        write_json(folder / "spec.json", asdict(self.spec))
        read_end, self.write_end = os.pipe()
        arguments = [sys.executable, "-I", "-c", PROGRAM, str(folder / "spec.json")] + ([str(read_end)] if owned else [])
        self.watcher = subprocess.Popen(arguments, pass_fds=[read_end] if owned else [], start_new_session=True)
        os.close(read_end)

    def pid(self, who: str) -> int:
        wait_for(lambda: (self.folder / "pids.json").exists())
        return int(json.loads((self.folder / "pids.json").read_text())[who])

    def exit(self) -> dict[str, object]:
        wait_for(lambda: (self.folder / "exit.json").exists())
        content: dict[str, object] = json.loads((self.folder / "exit.json").read_text())
        return content

    def members(self) -> list[int]:
        """Every process of this run, found by the folder's name in its command line or its parent's."""
        return [self.watcher.pid, *descendants(self.watcher.pid)]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def begin(code: str = TREE, **options: object) -> Run:
        runs.append(Run(tmp_path, [sys.executable, "-c", code], **options))  # type: ignore[arg-type]
        return runs[-1]

    yield begin
    for each in runs:
        each.watcher.kill()
        each.watcher.wait()


def wait_for(true: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def started(each: Run) -> list[int]:
    """Wait until watcher, sentry, keeper, engine and the two workers are there; their pids."""
    wait_for(lambda: os.path.exists(each.mark) and len(each.members()) == 6)
    return each.members()


def gone(pids: list[int]) -> bool:
    return not any((row := process_row(pid)) and row.alive for pid in pids)


@pytest.mark.parametrize("victim", ["watcher", "keeper", "engine"])
def test_kill_9_of_any_one_leaves_nothing(run: Callable[..., Run], victim: str) -> None:
    each = run()
    pids = started(each)
    os.kill(each.pid(victim), signal.SIGKILL)
    wait_for(lambda: gone(pids), 10)
    each.watcher.wait(10)
    assert each.exit()["reason"] == {"watcher": "watcher died", "keeper": "keeper died", "engine": "exited"}[victim]


@pytest.mark.parametrize("second", ["keeper", "sentry"])
def test_kill_9_of_two_guards_at_once_leaves_nothing(run: Callable[..., Run], second: str) -> None:
    each = run()
    pids = started(each)
    for who in ("watcher", second):
        os.kill(each.pid(who), signal.SIGKILL)
    wait_for(lambda: gone(pids), 10)
    assert each.exit()["reason"] == {"keeper": "guards died", "sentry": "watcher died"}[second]


def test_what_all_three_left_is_known_by_its_mark(run: Callable[..., Run]) -> None:
    each = run()
    pids = started(each)
    workers = sorted(set(descendants(each.pid("engine"))))
    for who in ("watcher", "sentry", "keeper"):
        os.kill(each.pid(who), signal.SIGKILL)
    wait_for(lambda: gone([each.pid("engine")]), 10)  # its parent-death signal
    assert sorted(marked(each.spec.mark)) == workers and workers
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: gone(pids), 10)


QUITTER = """
import subprocess, sys, time
worker = '''
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
first = os.getppid()
while True:
    if os.getppid() != first:
        os.kill(os.getppid(), signal.SIGQUIT)
    time.sleep(0.02)
'''
subprocess.Popen([sys.executable, "-c", worker], start_new_session=True)
open(sys.argv[1], "w").write("up")
time.sleep(600)
"""
"""A worker that sends SIGQUIT to whoever became its parent, as SGLang's do when something fails."""


@pytest.mark.parametrize("victim", ["watcher", "keeper", "engine"])
def test_a_worker_cannot_quit_its_guards(run: Callable[..., Run], victim: str) -> None:
    each = run(QUITTER)
    wait_for(lambda: os.path.exists(each.mark) and len(each.members()) == 5)
    pids = each.members()
    os.kill(each.pid(victim), signal.SIGKILL)
    wait_for(lambda: gone(pids), 10)
    assert each.exit()["reason"] == {"watcher": "watcher died", "keeper": "keeper died", "engine": "exited"}[victim]


HALF_DEAD = """
import ctypes, subprocess, sys, threading, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
threading.Thread(target=time.sleep, args=(600,)).start()
open(sys.argv[1], "w").write("up")
ctypes.CDLL(None).syscall(60, 0)  # exit(2) on x86-64: this thread only
"""
"""An engine as it looks for a moment when a signal ends it: the first thread is gone, another is not, its worker is still its own."""


def test_a_worker_below_a_half_dead_engine_is_not_overlooked(run: Callable[..., Run]) -> None:
    each = run(HALF_DEAD)
    wait_for(lambda: os.path.exists(each.mark) and (process_row(each.pid("engine")) or (0, 0, ""))[2] == "Z")
    pids = each.members()
    assert len(pids) == 4  # watcher, sentry, keeper and the worker; the engine shows as a zombie
    each.watcher.kill()
    wait_for(lambda: gone(pids), 10)


def test_the_engine_itself_can_be_quit(run: Callable[..., Run]) -> None:
    each = run()
    started(each)
    os.kill(each.pid("engine"), signal.SIGQUIT)
    assert each.exit()["code"] == -signal.SIGQUIT


def test_the_owner_s_end_ends_everything(run: Callable[..., Run]) -> None:
    each = run()
    pids = started(each)
    os.close(each.write_end)
    wait_for(lambda: gone(pids), 10)
    assert each.exit()["reason"] == "owner gone"


def test_without_an_owner_it_lives_on(run: Callable[..., Run]) -> None:
    each = run(owned=False)
    pids = started(each)
    os.close(each.write_end)
    time.sleep(2 * TICK_SECONDS)
    assert not gone(pids[:1]) and len(each.members()) == 6
    each.watcher.terminate()
    wait_for(lambda: gone(pids), 10)


def test_stop_is_gentle_first(run: Callable[..., Run]) -> None:
    polite = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); open(sys.argv[1], 'w'); time.sleep(600)"
    each = run(polite)
    wait_for(lambda: os.path.exists(each.mark))
    each.watcher.terminate()
    ended = each.exit()
    assert (ended["code"], ended["reason"], ended["killed"]) == (7, "stopped", 0)


def test_stop_kills_what_does_not_listen(run: Callable[..., Run]) -> None:
    deaf = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open(sys.argv[1], 'w'); time.sleep(600)"
    each = run(deaf, grace=0.5)
    wait_for(lambda: os.path.exists(each.mark))
    each.watcher.terminate()
    ended = each.exit()
    assert (ended["code"], ended["killed"]) == (-signal.SIGKILL, 1)


def test_an_exit_code_is_kept_and_output_goes_to_the_logs(run: Callable[..., Run]) -> None:
    each = run("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    assert each.exit()["code"] == 3
    assert ((each.folder / "out").read_text(), (each.folder / "err").read_text()) == ("out\n", "err\n")


def test_a_command_that_is_not_there_is_said(tmp_path: Path) -> None:
    each = Run(tmp_path, [str(tmp_path / "no-python")])
    ended = each.exit()
    each.watcher.wait(10)
    assert ended["reason"] == "not started" and "no-python" in str(ended["error"])


def test_a_start_whose_processes_cannot_be_written_down_is_none(run: Callable[..., Run], tmp_path: Path) -> None:
    """A disk that is full: the engine is ended, and the end names the file."""
    (tmp_path / "pids.json").mkdir()
    each = run()
    ended = each.exit()
    each.watcher.wait(10)
    assert ended["reason"] == "not started" and "pids.json" in str(ended["error"]) and marked(each.spec.mark) == []


def test_guards_that_cannot_read_what_to_start_say_so(run: Callable[..., Run], tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-I", "-c", PROGRAM, str(tmp_path / "spec.json")], capture_output=True)
    assert done.returncode == 0 and done.stderr == b""
    assert "spec.json" in json.loads((tmp_path / "exit.json").read_text())["error"]


LITTERER = """
import os, socket, sys, tempfile, time
folder = tempfile.gettempdir()
socket.socket(socket.AF_UNIX).bind(os.path.join(folder, "699feb99-c9e9-4927-9032-8d573ae22816"))
tempfile.NamedTemporaryFile(delete=False), tempfile.mkdtemp(), tempfile.mkdtemp(prefix="pymp-")
os.makedirs(os.path.join(folder, "torchinductor_somebody"))
open(sys.argv[1], "w").write(folder)
time.sleep(600)
"""


@pytest.mark.parametrize("victim", ["watcher", "keeper", "engine"])
def test_litter(run: Callable[..., Run], victim: str) -> None:
    """Temporary files of a killed engine are removed, a cache stays. (A short name: it is part of the folder's.)"""
    each = run(LITTERER)
    wait_for(lambda: os.path.exists(each.mark) and Path(each.mark).read_text())
    folder = Path(Path(each.mark).read_text())
    assert folder == each.folder / temporary.FOLDER and len(list(folder.iterdir())) == 5
    os.kill(each.pid(victim), signal.SIGKILL)
    each.watcher.wait(10)
    assert each.exit() and [path.name for path in folder.iterdir()] == ["torchinductor_somebody"]


def test_a_folder_whose_name_is_too_long_for_sockets_is_not_made_the_engine_s(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60)
    deep.mkdir()
    assert temporary.environment(deep) == {}


@pytest.mark.parametrize("victim", ["", "keeper"])
def test_on_a_full_disk_the_end_is_still_written_down(run: Callable[..., Run], victim: str) -> None:
    """/dev/full answers every write as a full disk does; here the drafts of exit.json are links to it."""
    each = run()
    started(each)
    for who in ("keeper", "watcher"):
        (each.folder / f"exit.json.{each.pid(who)}").symlink_to("/dev/full")
    if victim:
        os.kill(each.pid(victim), signal.SIGKILL)
    else:
        each.watcher.terminate()
    each.watcher.wait(10)
    assert each.exit()["reason"] == ("keeper died" if victim else "stopped")
    assert not (each.folder / ROOM).exists()


def test_the_engine_does_not_hold_the_kernel_s_pipe(run: Callable[..., Run]) -> None:
    each = run()
    started(each)
    held = [os.readlink(f"/proc/{each.pid('engine')}/fd/{fd}") for fd in os.listdir(f"/proc/{each.pid('engine')}/fd")]
    assert not [target for target in held if target.startswith("pipe:")]


def test_process_table_reads_this_process() -> None:
    row = next(row for row in process_table() if row.pid == os.getpid())
    assert row.parent == os.getppid() and row.session == os.getsid(0) and row.state == "R"


UNKILLABLE = """
import os, sys
from labkit.serving import supervisor
send = supervisor.signal_process
def spare(pid, number):
    if number != supervisor.signal.SIGKILL or b"# hang" + b"ing" not in open(f"/proc/{pid}/cmdline", "rb").read():
        send(pid, number)
supervisor.signal_process, supervisor.KILL_SECONDS = spare, 0.5
supervisor.main(sys.argv[1:])
"""
"""The guards on a machine where SIGKILL has no effect on one worker, as on one that hangs in a driver."""


def test_a_process_that_cannot_be_killed_is_written_down_and_left(tmp_path: Path) -> None:
    worker = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)  # hanging"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {worker!r}], start_new_session=True); time.sleep(600)"
    spec = Spec([sys.executable, "-c", code], str(tmp_path), str(tmp_path / "out"), str(tmp_path / "err"), 0.5)
    write_json(tmp_path / "spec.json", asdict(spec))
    watcher = subprocess.Popen([sys.executable, "-c", UNKILLABLE, str(tmp_path / "spec.json")], cwd=Path(__file__).parents[2])
    wait_for(lambda: len(descendants(watcher.pid)) == 4 and (tmp_path / "pids.json").exists())
    _, keeper, engine, hanging = descendants(watcher.pid)
    watcher.terminate()
    watcher.wait(20)
    ended = json.loads((tmp_path / "exit.json").read_text())
    row = process_row(hanging)
    assert ended["reason"] == "stopped" and ended["left"] == [[hanging, row and row.started]]
    assert gone([keeper, engine]) and not gone([hanging])
    os.kill(hanging, signal.SIGKILL)
