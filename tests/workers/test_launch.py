"""The launcher with real worker scripts under this Python: results, progress, errors, and ends of every kind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from labkit.common.errors import LabError, NoSpace
from labkit.serving.process_table import process_row
from labkit.workers import launch

HEAD = "import os, sys, time\nfrom labkit.workers import side\n"
TAIL = "\nside.answer(work)\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def run(tmp_path: Path, body: str, request: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    script = tmp_path / "job.py"
    script.write_text(HEAD + body + TAIL)
    return launch.run(script, request or {}, python=Path(sys.executable), **options)


def alive(pid: int) -> bool:
    row = process_row(pid)
    return row is not None and row.alive


def gone(pid: int, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def test_the_request_arrives_and_the_result_comes_back(tmp_path: Path) -> None:
    long = "显存" * 50_000
    body = "def work(request):\n    return {'text': request['text'], 'path': [p for p in sys.path if p.endswith('labkit')]}"
    assert run(tmp_path, body, {"text": long}) == {"text": long, "path": []}


def test_progress_lines_and_the_scripts_own_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = """
def work(request):
    print("noise of a library")
    side.tell("progress", done=1, total=4, note="a quarter")
    side.tell("line", text="a line that stays")
    side.tell("loss", step=3, value=0.5)
    return {}
"""
    seen: list[dict[str, Any]] = []
    assert run(tmp_path, body, title="Training", total=9, unit="steps", on_event=seen.append) == {}
    shown = capsys.readouterr()
    assert seen == [{"event": "loss", "step": 3, "value": 0.5}]
    assert shown.out == "a line that stays\n"
    assert "Training · 1 steps of 4 steps" in shown.err and "noise" not in shown.err


def test_a_refusal_is_the_named_error_with_its_fix(tmp_path: Path) -> None:
    with pytest.raises(NoSpace, match="The disk is small") as caught:
        run(tmp_path, "def work(request):\n    raise side.Refused('The disk is small.', 'Buy one.', 'NoSpace')")
    assert caught.value.fix == "Buy one."
    with pytest.raises(LabError) as other:
        run(tmp_path, "def work(request):\n    raise side.Refused('Strange.', kind='SystemExit')")
    assert type(other.value) is LabError


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(NoSpace, match="full while /big was written"):
        run(tmp_path, "def work(request):\n    raise OSError(28, 'No space left on device', '/big')")


def test_a_traceback_is_in_the_log_and_its_last_line_in_the_error(tmp_path: Path, home: Path) -> None:
    with pytest.raises(LabError, match="exit code 1: ValueError: odd shape") as caught:
        run(tmp_path, "def work(request):\n    raise ValueError('odd shape')")
    log = next((home / "logs" / "workers").iterdir())
    assert str(log) in caught.value.fix and "Traceback" in log.read_text()


def test_a_script_that_does_not_compile_is_said(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="SyntaxError"):
        run(tmp_path, "def work(request)\n")


def test_a_killed_worker_is_said(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="killed, as the system does"):
        run(tmp_path, "def work(request):\n    os.kill(os.getpid(), 9)")


FORKS = """
def work(request):
    child = os.fork()
    if child == 0:
        time.sleep(600)
    side.tell("pids", pids=[os.getpid(), child])
    {then}
"""


def test_what_it_forked_ends_with_it(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    assert run(tmp_path, FORKS.format(then="return {'done': True}"), on_event=seen.append) == {"done": True}
    assert all(gone(pid) for pid in seen[0]["pids"])


def test_an_interrupt_ends_it(tmp_path: Path) -> None:
    pids: list[int] = []

    def interrupt(event: dict[str, Any]) -> None:
        pids.extend(event["pids"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, FORKS.format(then="time.sleep(600)"), on_event=interrupt)
    assert len(pids) == 2 and all(gone(pid) for pid in pids)


def test_it_ends_with_a_killed_parent(tmp_path: Path) -> None:
    script, note = tmp_path / "job.py", tmp_path / "pids"
    script.write_text(
        HEAD
        + FORKS.format(
            then=f"open({str(note)!r} + '.new', 'w').write(f'{{os.getpid()}} {{child}}')\n    os.rename({str(note)!r} + '.new', {str(note)!r})\n    time.sleep(600)"
        )
        + TAIL
    )
    code = "import sys; from pathlib import Path; from labkit.workers import launch; launch.run(Path(sys.argv[1]), {}, python=Path(sys.executable))"
    parent = subprocess.Popen([sys.executable, "-c", code, str(script)], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 60
    while not note.exists():
        assert parent.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    pids = [int(word) for word in note.read_text().split()]
    assert all(alive(pid) for pid in pids)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert all(gone(pid) for pid in pids)


def test_an_impossible_number_is_refused_before_anything_starts(tmp_path: Path, home: Path) -> None:
    with pytest.raises(ValueError):
        run(tmp_path, "def work(request):\n    return {}", {"rate": float("nan")})
    assert not home.exists()


def test_its_environment_is_this_one_with_what_is_added_and_without_what_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("KEPT", "as it was")
    changes = {"http_proxy": None, "NEVER_THERE": None, "HF_HUB_OFFLINE": None, "ADDED": "new"}
    seen = run(tmp_path, "def work(request):\n    return dict(os.environ)", environment=changes)
    assert (seen["KEPT"], seen["ADDED"], seen["TOKENIZERS_PARALLELISM"]) == ("as it was", "new", "false")
    assert seen["UV_CACHE_DIR"] and not {"http_proxy", "NEVER_THERE", "HF_HUB_OFFLINE"} & set(seen)


def test_a_tick_comes_before_the_first_event_and_again_while_the_worker_is_silent(tmp_path: Path) -> None:
    seen: list[str] = []
    body = "def work(request):\n    side.tell('one')\n    time.sleep(0.5)\n    return {}"
    run(tmp_path, body, on_event=lambda event: seen.append(event["event"]), on_tick=lambda bar: seen.append(bar.title), tick_seconds=0.05)
    assert seen[0] == "job" and "one" in seen and seen[-3:] == ["job"] * 3


def test_an_end_without_a_word_is_told_in_the_callers_words(tmp_path: Path) -> None:
    def failure(code: int, log: Path) -> LabError:
        return NoSpace(f"code {code}: {log.read_text().strip()}", "")

    with pytest.raises(NoSpace, match="code 3: last words"):
        run(tmp_path, "def work(request):\n    print('last words')\n    sys.stdout.flush()\n    os._exit(3)", on_failure=failure)


def test_it_holds_a_descriptor_that_it_was_given(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        body = "def work(request):\n    return {'same': os.fstat(request['lock']).st_ino}"
        assert run(tmp_path, body, {"lock": lock.fileno()}, pass_fds=(lock.fileno(),)) == {"same": os.fstat(lock.fileno()).st_ino}


def test_the_side_needs_nothing_of_labkit() -> None:
    code = "import json, runpy, sys; runpy.run_path(sys.argv[1]); print(json.dumps([m for m in sys.modules if m.startswith('labkit')]))"
    done = subprocess.run([sys.executable, "-I", "-c", code, str(launch.SIDE)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
