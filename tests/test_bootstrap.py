"""`./lab` itself: finding Python, knowing a whole .venv, handing over. Making one for real is what `./lab test` begins with."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from labkit import bootstrap
from labkit.common.settings import settings

ROOT = Path(__file__).resolve().parent.parent
SHELL_TOOLS = ("bash", "cat", "cksum", "dirname", "readlink", "env")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone in a folder with a space, whose bootstrap only tells that it was called, and makes the .venv's Python."""
    folder = tmp_path / "my clone"
    (folder / "labkit").mkdir(parents=True)
    (folder / "runtimes").mkdir()
    shutil.copy(ROOT / "lab", folder)
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copy(ROOT / "runtimes" / "kernel.txt", folder / "runtimes")
    (folder / "labkit" / "bootstrap.py").write_text(
        "import pathlib, sys\n"
        "root = pathlib.Path(__file__).parent.parent\n"
        "print('bootstrap')\n"
        "python = root / '.venv' / 'bin' / 'python'\n"
        "python.parent.mkdir(parents=True, exist_ok=True)\n"
        'python.write_text(\'#!/bin/sh\\nfor word in "$@"; do echo "[$word]"; done\\n\')\n'
        "python.chmod(0o755)\n"
        "(root / '.venv' / 'labkit.stamp').write_text(sys.argv[1] + '\\n')\n"
    )
    return folder


def lab(folder: Path, *words: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    variables = {"PATH": os.environ["PATH"], "LABKIT_PYTHON": sys.executable} | env
    return subprocess.run([str(folder / "lab"), *words], cwd=cwd or "/", env=variables, capture_output=True, text=True, check=False)


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A PATH with the shell's tools and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in SHELL_TOOLS:
        (folder / tool).symlink_to(str(shutil.which(tool)))
    return folder


def test_first_call_makes_second_hands_over(clone: Path, tmp_path: Path) -> None:
    assert lab(clone, "run", "a b", cwd=tmp_path).stdout.split("\n") == ["bootstrap", "[-m]", "[labkit]", "[run]", "[a b]", ""]
    assert lab(clone, "ps").stdout.split("\n") == ["[-m]", "[labkit]", "[ps]", ""]


def test_called_through_a_link(clone: Path, tmp_path: Path) -> None:
    (tmp_path / "lab").symlink_to(clone / "lab")
    assert "bootstrap" in lab(tmp_path, "ps").stdout
    assert (clone / ".venv").exists()


def test_changed_pins_and_moved_clone_are_noticed(clone: Path, tmp_path: Path) -> None:
    lab(clone)
    (clone / "runtimes" / "kernel.txt").write_text("uv==1\n")
    assert "bootstrap" in lab(clone).stdout
    moved = clone.rename(tmp_path / "moved")
    assert "bootstrap" in lab(moved).stdout


def test_half_made_is_not_used(clone: Path) -> None:
    lab(clone)
    (clone / ".venv" / "labkit.stamp").unlink()
    assert "bootstrap" in lab(clone).stdout


def test_no_python_names_the_fix(clone: Path, bare_path: Path) -> None:
    done = lab(clone, "doctor", PATH=str(bare_path), LABKIT_PYTHON="")
    assert done.returncode == 1
    assert "no Python 3.11 or 3.12" in done.stderr and "apt-get install" in done.stderr and "conda create" in done.stderr


def test_an_old_python3_is_not_taken(clone: Path, bare_path: Path) -> None:
    old = bare_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    assert "no Python 3.11 or 3.12" in lab(clone, PATH=str(bare_path), LABKIT_PYTHON="").stderr
    assert not (clone / ".venv").exists()


def test_wrong_labkit_python_is_named(clone: Path) -> None:
    done = lab(clone, LABKIT_PYTHON="/bin/false")
    assert done.returncode == 1 and "LABKIT_PYTHON=/bin/false" in done.stderr


def test_update_in_place_only_where_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    stamp = tmp_path / ".venv" / "labkit.stamp"
    monkeypatch.setattr(bootstrap, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(bootstrap, "STAMP", stamp)
    assert not bootstrap._same_place("/a b 1 2")
    stamp.write_text("/a b 1 2\n")
    assert bootstrap._same_place("/a b 3 4"), "other pins, same folder"
    assert not bootstrap._same_place("/a c 1 2"), "moved"


def test_read_only_home_needs_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("LABKIT_HOME", str(blocked / "home"))
    monkeypatch.delenv("UV_CACHE_DIR", raising=False)
    assert bootstrap._uv_cache() == {"UV_NO_CACHE": "1"}


def test_a_setting_that_cannot_be_is_said_without_a_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LABKIT_PORT_VLLM", "80")
    monkeypatch.setattr(bootstrap, "_make", lambda wanted: settings())
    assert bootstrap.main("here 1 2") == 1
    assert "LABKIT_PORT_VLLM" in capsys.readouterr().err


def test_full_disk_is_said_before_anything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bootstrap, "MIN_FREE_BYTES", 2**62)
    monkeypatch.setattr(bootstrap, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(bootstrap, "STAMP", tmp_path / ".venv" / "labkit.stamp")
    assert bootstrap.main("here 1 2") == 1
    assert "GB free" in capsys.readouterr().err
    assert not (tmp_path / ".venv").exists()


def test_the_package_is_found_beside_a_clone_of_its_name(tmp_path: Path) -> None:
    """`git clone URL labkit`, installed editable (PEP 517's hook is what pip and uv call), and Python started beside it."""
    clone = tmp_path / "labkit"
    clone.mkdir()
    shutil.copy(ROOT / "pyproject.toml", clone)
    (clone / "labkit").symlink_to(ROOT / "labkit")
    (tmp_path / "wheels").mkdir()
    hook = f"from setuptools import build_meta; build_meta.build_editable({str(tmp_path / 'wheels')!r})"
    subprocess.run([sys.executable, "-c", hook], cwd=clone, capture_output=True, check=True)
    venv.create(clone / ".venv", symlinks=True)
    with zipfile.ZipFile(next((tmp_path / "wheels").glob("*.whl"))) as wheel:
        wheel.extractall(next((clone / ".venv" / "lib").glob("python3*/site-packages")))
    done = subprocess.run(
        [clone / ".venv" / "bin" / "python", "-c", "import labkit; print(labkit.settings, labkit.__file__)"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip().endswith(f"{clone}/labkit/__init__.py"), done.stderr


def test_it_runs_before_anything_is_installed() -> None:
    """Python without site-packages: the standard library and this folder are all that there is."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import labkit.bootstrap"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
