"""The user's kernel `labkit`: gone with a system disk, or left behind by a clone that is gone. In a home of the test's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.machine import kernel_spec


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home")}


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment with a kernel of its own and the widgets' front end."""
    prefix = tmp_path / "clone" / ".venv"
    write(prefix / "share" / "jupyter", sys.executable)
    (prefix / "share" / "jupyter" / "kernels" / "labkit" / "logo.svg").write_text("<svg/>")
    front = prefix / "share" / "jupyter" / "labextensions" / "@jupyter-widgets" / "manager"
    front.mkdir(parents=True)
    (front / "package.json").write_text("{}")
    return prefix


def write(data: Path, python: str) -> Path:
    file = data / "kernels" / "labkit" / "kernel.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"argv": [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "labkit"}))
    return file


def test_on_a_new_system_disk_it_is_registered_again(home: dict[str, str], venv: Path) -> None:
    assert kernel_spec.users_spec(home) is None
    assert "was not registered" in kernel_spec.restore(venv, home)
    found = kernel_spec.users_spec(home)
    assert found and found.alive and found.python == sys.executable
    user = Path(home["HOME"], ".local", "share", "jupyter")
    assert (user / "kernels" / "labkit" / "logo.svg").exists() and (user / "labextensions/@jupyter-widgets/manager/package.json").exists()
    assert kernel_spec.restore(venv, home) == "", "once is enough"


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"argv": []}', '{"argv": "python"}'])
def test_one_that_leads_nowhere_is_replaced(home: dict[str, str], venv: Path, content: str | None) -> None:
    file = write(Path(home["HOME"], ".local", "share", "jupyter"), "/gone/clone/.venv/bin/python")
    if content is not None:
        file.write_text(content)
    found = kernel_spec.users_spec(home)
    assert found and not found.alive
    assert "which is not there; it is now" in kernel_spec.restore(venv, home)
    found = kernel_spec.users_spec(home)
    assert found and found.alive


def test_another_clone_s_living_kernel_is_left(home: dict[str, str], venv: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "python"
    other.parent.mkdir()
    other.symlink_to(sys.executable)
    file = write(Path(home["HOME"], ".local", "share", "jupyter"), str(other))
    before = file.read_text()
    assert kernel_spec.restore(venv, home) == "" and file.read_text() == before


@pytest.mark.parametrize("variable", ["JUPYTER_DATA_DIR", "XDG_DATA_HOME"])
def test_it_goes_where_jupyter_looks(home: dict[str, str], venv: Path, tmp_path: Path, variable: str) -> None:
    env = home | {variable: str(tmp_path / "data")}
    assert kernel_spec.restore(venv, env)
    asked = subprocess.run(
        [sys.executable, "-c", "from jupyter_core.paths import jupyter_data_dir; print(jupyter_data_dir())"],
        env={"PATH": os.environ["PATH"], **env},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert (Path(asked) / "kernels" / "labkit" / "kernel.json").exists() and not Path(home["HOME"]).exists()


def test_an_environment_without_a_living_kernel_registers_nothing(home: dict[str, str], tmp_path: Path) -> None:
    assert kernel_spec.restore(tmp_path, home) == ""
    write(tmp_path / "share" / "jupyter", "/gone/python")
    assert kernel_spec.restore(tmp_path, home) == "" and kernel_spec.users_spec(home) is None


def test_a_home_that_cannot_be_written_hinders_nobody(venv: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert kernel_spec.restore(venv, {"HOME": str(tmp_path / "file")}) == ""
