"""Keys: random, their owner's alone, and the way each engine takes one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from labkit.common.errors import LabError
from labkit.common.settings import settings
from labkit.engines import ENGINES
from labkit.serving import keys


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    return tmp_path


def test_a_key_is_made_once_and_only_its_owner_may_read_it() -> None:
    key = keys.key("vllm")
    assert key == keys.key("vllm", settings()) != keys.key("draft") and len(key) > 30
    folder = keys.key_file("vllm").parent
    assert stat.S_IMODE(keys.key_file("vllm").stat().st_mode) == 0o600 and stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(path.name for path in folder.iterdir()) == ["draft.key", "vllm.key"]


def test_an_engine_that_knows_no_variable_gets_a_file_that_only_the_owner_reads() -> None:
    flag, file = keys.key_argv(ENGINES["sglang"], "draft")
    path = Path(file)
    assert flag == "--config" and path.name == "draft.yaml" and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == f"api-key: {keys.key('draft')}\n"
    keys.key_file("draft").unlink()
    keys.key_argv(ENGINES["sglang"], "draft")
    assert path.read_text() == f"api-key: {keys.key('draft')}\n" and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.key_environment(ENGINES["sglang"], "draft") == {}


def test_an_engine_that_knows_one_gets_it_there() -> None:
    assert keys.key_argv(ENGINES["vllm"], "vllm") == ["--middleware", "require_key.RequireKey"]
    assert keys.key_environment(ENGINES["vllm"], "vllm") == {"VLLM_API_KEY": keys.key("vllm")}


def spoil(path: Path, how: str) -> None:
    """Make the sound key file `path` one that nobody should start a server with."""
    if how in ("empty", "cut", "two lines", "binary", "a word"):
        whole = path.read_text()
        content = {"empty": "", "cut": whole[:20], "two lines": f"{whole}\n{whole}", "a word": "sk-changed"}.get(how, "")
        path.write_bytes(os.urandom(64) if how == "binary" else content.encode())
    elif how == "readable by others":
        path.chmod(0o644)
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    else:
        other = path.with_name("other.key")
        path.rename(other)
        path.symlink_to(other if how == "a link" else path.with_name("nowhere"))


SPOILT = ["empty", "cut", "two lines", "binary", "a word", "readable by others", "a link", "a dangling link"]


@pytest.mark.parametrize("how", SPOILT)
def test_what_is_no_key_of_ours_is_replaced_before_a_start(how: str) -> None:
    first, path = keys.key("vllm"), keys.key_file("vllm")
    spoil(path, how)
    second = keys.key("vllm")
    assert second != first and keys.read(path) == second and keys.key("vllm") == second
    assert not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_cannot_be_replaced_is_named() -> None:
    path = keys.key_file("vllm")
    keys.key("vllm")
    spoil(path, "a folder")
    with pytest.raises(LabError, match=f"{path} is a folder") as failure:
        keys.key("vllm")
    assert failure.value.fix == f"Move it away: mv {path} {path}.old"


@pytest.mark.parametrize("how", SPOILT)
def test_a_server_whose_key_was_lost_since_says_so_and_shows_none(how: str) -> None:
    secret, path = keys.key("vllm"), keys.key_file("vllm")
    wanted = keys.digest(secret)
    assert keys.started_with("vllm", path, wanted) == secret
    spoil(path, how)
    with pytest.raises(LabError, match="down vllm") as told:
        keys.started_with("vllm", path, wanted)
    assert secret[:20] not in str(told.value)
    keys.key("vllm")  # the next start of that name makes a new one
    with pytest.raises(LabError, match="has a newer one"):
        keys.started_with("vllm", path, wanted)


def test_state_that_others_may_write_to_is_closed_to_them() -> None:
    keys.key("vllm")
    state = keys.key_file("vllm").parents[1]
    state.chmod(0o777)
    keys.key("vllm")
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
