"""A watched process: silence has an end, and so has the end itself."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from labkit.common.errors import DownloadError
from labkit.hub import process
from labkit.hub.process import Ended, Watch

READ = "import subprocess, sys, time\nfrom labkit.workers import side\nrequest = side.read_request()\n"


def run(folder: Path, script: str, stop_at: float | None = None) -> Ended:
    """Run `script`; what counts as arrived is the size of the file `came` in `folder`."""
    (folder / "script.py").write_text(READ + script)
    came = folder / "came"
    watch = Watch("Fetching", lambda: came.stat().st_size if came.exists() else 0, 4_000_000, stop_at)
    log = folder / "log"
    return process.run(folder / "script.py", {"folder": str(folder)}, watch, environment=dict(os.environ), log=log)


def bring(size: int | str) -> str:
    return f"open(request['folder'] + '/came', 'wb').write(bytes({size}))\n"


def test_the_result_and_the_exit_code_come_back(tmp_path: Path) -> None:
    ended = run(tmp_path, "print('a word')\nside.tell('line', text='x')\nside.tell('result', folder=request['folder'])\n")
    assert (ended.code, ended.result["folder"], ended.failure) == (0, str(tmp_path), {})
    assert (tmp_path / "log").read_text() == "a word\n"
    assert run(tmp_path, "sys.exit('no such model')") == Ended(1, {}, {})
    assert "no such model" in (tmp_path / "log").read_text()


def test_one_that_dies_before_it_reads_is_told_by_its_code(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import sys; sys.exit(3)")
    watch = Watch("Fetching", lambda: 0, 1)
    request = {"files": ["x" * 1000] * 200}
    assert process.run(tmp_path / "script.py", request, watch, environment=dict(os.environ), log=tmp_path / "log") == Ended(3, {}, {})


def test_without_a_new_byte_it_is_ended_and_says_how_far_it_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STALLED_SECONDS", 1.5)
    started = time.monotonic()
    with pytest.raises(DownloadError, match=r"no new byte for 2 s, .*1\.0 MB of 4\.0 MB had come") as caught:
        run(tmp_path, bring(1_000_000) + "time.sleep(60)\n")
    assert time.monotonic() - started < 8 and "goes on from here" in caught.value.fix
    assert not psutil.Process().children()


def test_bytes_that_keep_coming_put_the_end_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STALLED_SECONDS", 1.5)
    assert run(tmp_path, f"for size in range(1, 5):\n    {bring('size * 100_000')}    time.sleep(0.6)\n") == Ended(0, {}, {})


def test_a_few_bytes_now_and_then_do_not_put_it_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STALLED_SECONDS", 1.0)
    with pytest.raises(DownloadError, match=r"\d+ bytes in 1 s, so the client was ended"):
        run(tmp_path, f"for size in range(1, 200):\n    {bring('size')}    time.sleep(0.2)\n")


def test_what_it_waits_for_is_said_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = "side.tell('waiting', text='the hub is busy: waiting 9 s')\ntime.sleep(0.5)\nside.tell('failure', links=[], busy=1.0)\nsys.exit(1)\n"
    ended = run(tmp_path, script)
    assert "the hub is busy: waiting 9 s" in capsys.readouterr().out
    assert (ended.code, ended.failure["busy"]) == (1, 1.0)


def test_what_it_forked_ends_with_it(tmp_path: Path) -> None:
    ended = run(tmp_path, "side.tell('result', pid=subprocess.Popen(['sleep', '60']).pid)\n")
    forked = [item for item in psutil.process_iter() if item.pid == ended.result["pid"] and item.status() != psutil.STATUS_ZOMBIE]
    assert ended.code == 0 and not forked


def test_one_that_outlives_sigkill_is_named_and_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "KILL_SECONDS", 0.3)
    monkeypatch.setattr(process.os, "killpg", lambda group, number: None)  # as if it waited for a disk, where no signal reaches it
    bring_later = "subprocess.Popen(['sh', '-c', 'sleep 1; head -c 4000000 /dev/zero > \"$0\"', request['folder'] + '/came'])\n"
    script = f"import os, signal\n{bring_later}os.kill(os.getpid(), signal.SIGSTOP)\n"  # stopped before the bytes come, on any machine
    started = time.monotonic()
    with pytest.raises(DownloadError, match=r"did not end within .* left: process \d+ \(\w+.*, state T\)\.") as caught:
        run(tmp_path, script, stop_at=0.5)
    assert time.monotonic() - started < 8 and "State D" in caught.value.fix
    (left,) = psutil.Process().children()
    assert f"process {left.pid} " in caught.value.cause
    left.send_signal(signal.SIGKILL)
    left.wait(10)


def test_a_child_of_the_group_that_is_left_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "KILL_SECONDS", 0.3)
    monkeypatch.setattr(process.os, "killpg", lambda group, number: None)
    with pytest.raises(DownloadError, match=r"process \d+ \(sleep, state S\)") as caught:
        run(tmp_path, "subprocess.Popen(['sleep', '60'])\n")
    os.kill(int(caught.value.cause.split("left: process ")[1].split()[0]), signal.SIGKILL)


def test_members_of_a_group_have_their_state() -> None:
    stopped = subprocess.Popen([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"], start_new_session=True)
    os.waitid(os.P_PID, stopped.pid, os.WSTOPPED)
    assert process._members(stopped.pid) == [f"process {stopped.pid} ({psutil.Process(stopped.pid).name()}, state T)"]
    stopped.kill()
    stopped.wait()
    assert process._members(stopped.pid) == []
