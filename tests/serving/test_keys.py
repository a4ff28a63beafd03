"""Keys: random, their owner's alone, and the way each engine takes one."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

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
    keys.key_file("draft").write_text("sk-changed")
    keys.key_argv(ENGINES["sglang"], "draft")
    assert path.read_text() == "api-key: sk-changed\n" and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.key_environment(ENGINES["sglang"], "draft") == {}


def test_an_engine_that_knows_one_gets_it_there() -> None:
    assert keys.key_argv(ENGINES["vllm"], "vllm") == []
    assert keys.key_environment(ENGINES["vllm"], "vllm") == {"VLLM_API_KEY": keys.key("vllm")}
