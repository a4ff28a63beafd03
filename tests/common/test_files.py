"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.common.errors import SettingError
from labkit.common.files import draft, make_folder, read_json, remove, require_empty, save
from labkit.common.locks import locked


def test_it_appears_when_the_block_ends_well(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with draft(out, "test") as folder:
        (folder / "file").write_text("x")
        assert not out.exists()
    assert [path.name for path in out.parent.iterdir()] == ["out"] and (out / "file").read_text() == "x"


def test_nothing_is_left_when_it_does_not(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), draft(tmp_path / "out", "test") as folder:
        (folder / "file").write_text("x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_cleared_and_a_living_one_is_let_be(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / f".out.test-{gone.pid}").mkdir()
    (tmp_path / f".out.test-{os.getppid()}").mkdir()
    with draft(tmp_path / "out", "test"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".out.test-{os.getppid()}", "out"]


def test_a_place_that_is_taken_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert require_empty(tmp_path / "empty") == tmp_path / "empty"
    assert require_empty(tmp_path / "new") == tmp_path / "new"
    (tmp_path / "empty" / "file").write_text("")
    with pytest.raises(SettingError, match="is not empty. It would go on."):
        require_empty(tmp_path / "empty", "It would go on.")
    with pytest.raises(SettingError, match="is no folder"):
        require_empty(tmp_path / "empty" / "file")


def spoilt(path: Path, how: str) -> Path:
    """`path` as something that is no JSON file."""
    if how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "link in a circle":
        path.symlink_to(path)
    elif how != "nothing":
        content = {"bytes": b"\xff\x00\x12", "empty": b"", "cut": b"[1, ", "deep": b"[" * 200_000, "long number": b"9" * 5000}
        path.write_bytes(content[how])
    return path


@pytest.mark.parametrize("how", ["nothing", "bytes", "empty", "cut", "deep", "long number", "folder", "pipe", "link in a circle"])
def test_what_is_no_json_file_is_none_and_can_be_removed(tmp_path: Path, how: str) -> None:
    path = spoilt(tmp_path / "x.json", how)
    before = set(os.listdir("/proc/self/fd"))
    assert read_json(path) is None and set(os.listdir("/proc/self/fd")) == before
    remove(path)
    assert not os.path.lexists(path)
    assert read_json(save(path, {"a": [1]})) == {"a": [1]}


def test_only_the_owner_may_write_to_a_folder_whatever_the_umask(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    before = os.umask(0)
    try:
        make_folder(home / "logs" / "vllm")
        with locked(home / "state" / "a.lock"):
            pass
    finally:
        os.umask(before)
    made = [home.parent, home, *home.rglob("*/")]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in made if folder.is_dir()} == {0o755} and len(made) > 4


def test_a_folder_below_a_file_is_refused_by_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        make_folder(tmp_path / "file" / "below")
