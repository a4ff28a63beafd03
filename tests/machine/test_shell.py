"""The managed block in ~/.bashrc."""

import os
import subprocess
from pathlib import Path

import pytest

from labkit.common.errors import SettingError
from labkit.machine import shell

MINE = "alias ll='ls -l'\nexport EDITOR=vim\n"


@pytest.fixture(autouse=True)
def _own_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "data home"))
    for name in shell.CACHES:
        monkeypatch.setenv(name, "placeholder")
        monkeypatch.delenv(name)


@pytest.fixture
def bashrc(tmp_path: Path) -> Path:
    path = tmp_path / "bashrc"
    path.write_text(MINE)
    path.chmod(0o640)
    return path


def read_by_bash(path: Path, name: str) -> str:
    done = subprocess.run(
        ["bash", "-c", f'. "$1"; printf %s "${name}"', "bash", str(path)], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True
    )
    return done.stdout


def test_a_new_terminal_knows_them(bashrc: Path, tmp_path: Path) -> None:
    assert shell.persist(file=bashrc)
    assert read_by_bash(bashrc, "HF_HOME") == str(tmp_path / "data home" / "caches" / "huggingface")
    assert read_by_bash(bashrc, "EDITOR") == "vim"
    assert os.environ["HF_HOME"] == read_by_bash(bashrc, "HF_HOME"), "and so does this process"


def test_added_once(bashrc: Path) -> None:
    shell.persist(file=bashrc)
    once = bashrc.read_text()
    assert not shell.persist(file=bashrc)
    assert bashrc.read_text() == once


def test_updated_in_place(bashrc: Path) -> None:
    shell.persist({"HF_HOME": "/old"}, bashrc)
    bashrc.write_text(bashrc.read_text() + "export LATER=1\n")
    shell.persist({"HF_HOME": "/new"}, bashrc)
    text = bashrc.read_text()
    assert "/old" not in text and text.count(shell.BEGIN) == 1
    assert text.startswith(MINE) and text.endswith("export LATER=1\n")


def test_removed_without_a_trace(bashrc: Path) -> None:
    shell.persist(file=bashrc)
    assert shell.forget(bashrc)
    assert bashrc.read_text() == MINE
    assert not shell.forget(bashrc)


def test_permissions_and_link_stay(bashrc: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(bashrc)
    shell.persist(file=link)
    assert link.is_symlink() and shell.BEGIN in bashrc.read_text()
    assert bashrc.stat().st_mode & 0o777 == 0o640


def test_file_without_last_newline_and_no_file(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.write_text("export EDITOR=vim")
    shell.persist(file=bare)
    assert read_by_bash(bare, "EDITOR") == "vim"
    shell.persist(file=tmp_path / "fresh")
    assert (tmp_path / "fresh").read_text().startswith(shell.BEGIN)


@pytest.mark.parametrize("damaged", [f"{shell.BEGIN}\n", f"{shell.END}\n{shell.BEGIN}\n", f"{shell.BEGIN}\n{shell.END}\n" * 2])
def test_damaged_marks_change_nothing(bashrc: Path, damaged: str) -> None:
    bashrc.write_text(MINE + damaged)
    with pytest.raises(SettingError, match="damaged"):
        shell.persist(file=bashrc)
    assert bashrc.read_text() == MINE + damaged


def test_a_variable_that_is_set_is_kept(bashrc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/mine/hf")
    shell.persist(file=bashrc)
    assert read_by_bash(bashrc, "HF_HOME") == "/mine/hf"
    assert "HF_HOME" not in shell.apply()
