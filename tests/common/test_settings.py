"""Where things live: environment first, AutoDL's data disk next, the home folder last; keys that nobody else reads."""

from pathlib import Path

import pytest

from labkit.common import settings as module
from labkit.common.errors import SettingError
from labkit.common.settings import settings


def test_home_comes_from_the_environment(tmp_path: Path) -> None:
    assert settings({"LABKIT_HOME": str(tmp_path)}).models == tmp_path / "models"


def test_on_autodl_the_data_disk_is_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AUTODL_DATA_DISK", tmp_path)
    assert settings({}).home == tmp_path / "labkit"


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
