"""Where things live: environment first, AutoDL's data disk next, the home folder last; keys that nobody else reads."""

from pathlib import Path

import pytest

from labkit.common import settings as module
from labkit.common.errors import SettingError
from labkit.common.settings import settings


def test_home_comes_from_the_environment(tmp_path: Path) -> None:
    assert settings({"LABKIT_HOME": str(tmp_path)}).models == tmp_path / "models"


@pytest.fixture
def data_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data disk of an AutoDL instance, still empty."""
    monkeypatch.setattr(module, "AUTODL_DATA_DISK", tmp_path)
    return tmp_path


def make_clone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that every clone has, at `folder`, which is then the clone that runs."""
    for name in (
        "pyproject.toml",
        "runtimes/vllm-cpu.txt",
        "labkit/__init__.py",
        "labkit/runtimes/__init__.py",
        "labkit/models/__init__.py",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    monkeypatch.setattr(module, "CLONE", folder)


@pytest.mark.parametrize("clone", ["labkit-course", "labkit"])
def test_on_autodl_home_lies_on_the_data_disk_beside_the_clone(clone: str, data_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_clone(data_disk / clone, monkeypatch)
    assert settings({}).home == data_disk / "labkit-data"


@pytest.mark.parametrize("clone", ["labkit-course", "labkit"])
@pytest.mark.parametrize("folder", ["state", "models", "caches"])
def test_a_home_of_an_earlier_version_goes_on_being_used(folder: str, clone: str, data_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it lies in the clone, as the first README had it: 16 GB are not downloaded again."""
    make_clone(data_disk / clone, monkeypatch)
    (data_disk / "labkit" / folder).mkdir(parents=True)
    assert settings({}).home == data_disk / "labkit"


def test_another_clone_at_the_earlier_place_is_no_home(data_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_clone(data_disk / "labkit", monkeypatch)
    make_clone(data_disk / "labkit-course", monkeypatch)
    assert settings({}).home == data_disk / "labkit-data"


@pytest.mark.parametrize("clone", [".", "labkit-data"])
def test_a_clone_that_would_hold_the_home_is_told_so(clone: str, data_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_clone(data_disk / clone, monkeypatch)
    with pytest.raises(SettingError, match="inside the clone") as failure:
        settings({})
    assert "LABKIT_HOME" in failure.value.fix
    assert settings({"LABKIT_HOME": str(data_disk / "mine")}).home == data_disk / "mine"


def test_elsewhere_home_is_below_the_user_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AUTODL_DATA_DISK", tmp_path / "none")
    assert settings({}).home == Path.home() / ".labkit"


@pytest.mark.parametrize("port", ["80", "70000", "8000x", "-1"])
def test_a_port_that_cannot_be_used_is_refused(port: str) -> None:
    with pytest.raises(SettingError, match="LABKIT_PORT_VLLM"):
        settings({"LABKIT_PORT_VLLM": port})


def test_an_unknown_owner_is_refused() -> None:
    with pytest.raises(SettingError, match="LABKIT_OWNER"):
        settings({"LABKIT_OWNER": "me"})


def test_caches_that_are_set_are_left_alone(tmp_path: Path) -> None:
    words = settings({"LABKIT_HOME": str(tmp_path)}).cache_environment({"HF_HOME": "/elsewhere"})
    assert "HF_HOME" not in words and words["VLLM_CACHE_ROOT"] == str(tmp_path / "caches" / "vllm")


def test_reading_settings_makes_nothing(tmp_path: Path) -> None:
    settings({"LABKIT_HOME": str(tmp_path / "new")})
    assert not (tmp_path / "new").exists()
