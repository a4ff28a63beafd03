"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.common.errors import SettingError
from labkit.common.files import draft, require_empty


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
