"""What the system refuses is a sentence with the path, and a fault of labkit's own is a report: never a traceback."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from labkit import cli
from labkit.common.errors import LabError
from labkit.common.refusals import FIXES, refusal, told
from labkit.course import checkup

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("number", sorted(FIXES), ids=lambda number: errno.errorcode[number])
def test_each_is_told_with_its_path_and_a_fix(number: int) -> None:
    error = refusal(OSError(number, os.strerror(number), "/data/x"))
    assert error.cause == f"/data/x: {os.strerror(number)}." and error.fix == FIXES[number]


def test_a_rename_names_both_ends_and_an_unknown_one_gives_no_advice() -> None:
    error = refusal(OSError(errno.EXDEV, "Invalid cross-device link", "/a", None, "/b"))
    assert (error.cause, error.fix) == ("/a -> /b: Invalid cross-device link.", "")
    assert refusal(OSError("odd")).cause == "odd."


def test_connections_and_time_outs_pass() -> None:
    for kind in (ConnectionRefusedError, TimeoutError):
        with pytest.raises(kind), told():
            raise kind


def test_a_function_can_be_told_whole(tmp_path: Path) -> None:
    @told()
    def write() -> None:
        (tmp_path / "file" / "below").write_text("")

    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match=str(tmp_path)) as failure:
        write()
    assert "Not a directory" in failure.value.cause and isinstance(failure.value.__cause__, NotADirectoryError)


@pytest.mark.parametrize("words", [["ps"], ["down"], ["down", "x" * 300], ["logs", "x" * 300], ["up", "vllm", "tiny", "--name", "x" * 60]])
@pytest.mark.parametrize("home", ["a file", "a dangling link", "below a file", "a circle"])
def test_a_home_that_cannot_be_is_no_traceback(tmp_path: Path, home: str, words: list[str]) -> None:
    place = tmp_path / "home"
    if home == "a file":
        place.write_text("")
    elif home == "a dangling link":
        place.symlink_to(tmp_path / "nowhere" / "deeper")
    elif home == "a circle":
        place.symlink_to(place)
    else:
        place.write_text("")
        place = place / "below"
    env = {**os.environ, "LABKIT_HOME": str(place), "LABKIT_RUNTIME_VLLM": sys.executable, "LABKIT_DEVICE": "cpu"}
    done = subprocess.run([sys.executable, "-m", "labkit", *words], cwd=ROOT, env=env, capture_output=True, text=True)
    assert "Traceback" not in done.stderr + done.stdout and "labkit itself" not in done.stderr
    assert done.returncode in (0, 1)


def test_a_fault_of_ours_is_a_private_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    secret = "sk-in-a-variable"

    def broken() -> None:
        value = secret
        raise KeyError("no such thing", len(value))

    monkeypatch.setattr(checkup, "doctor", broken)
    assert cli.main(["doctor"]) == 1
    told_text = capsys.readouterr().err
    (report,) = (tmp_path / "home").rglob("*.txt")
    assert "Traceback" not in told_text and str(report) in told_text
    assert "in broken" in report.read_text() and secret not in report.read_text() and stat.S_IMODE(report.stat().st_mode) == 0o600


def test_whoever_stops_reading_is_no_fault() -> None:
    script = f"{sys.executable} -m labkit --help | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
