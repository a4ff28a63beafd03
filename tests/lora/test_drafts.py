"""What a merge that was killed or failed leaves for the next one. Without a worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lora_folders import write_adapter, write_base

from labkit.common.errors import LabError
from labkit.lora import drafts
from labkit.lora.drafts import JOURNAL, Draft
from labkit.models.adapter import Adapter
from labkit.models.headers import Weights

INPUTS: dict[str, Any] = {"base": [{"name": "a"}], "arithmetic": 1}
SIZES = {"a": 3, "b": 3, "c": 3}


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """The folder of a merge that ended after two of three shards, in the middle of the third."""
    draft = Draft(tmp_path / "out", INPUTS)
    with draft.locked():
        for name in SIZES:
            (draft.folder / name).write_bytes(b"123")
        (draft.folder / "temporary").mkdir()
        draft.add("a", ["x", "y"])
        draft.add("b", [])
    return draft.folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_whole_shards_of_the_same_inputs_are_gone_on_from(killed: Path, tmp_path: Path) -> None:
    draft = Draft(tmp_path / "out", INPUTS)
    assert draft.resume(SIZES) == 2 and draft.shards == {"a": ["x", "y"], "b": []}
    assert names(killed) == {"a", "b", JOURNAL}


@pytest.mark.parametrize("why", ["other inputs", "not wanted", "no journal", "a damaged journal"])
def test_nothing_else_is_gone_on_from(killed: Path, tmp_path: Path, why: str) -> None:
    draft = Draft(tmp_path / "out", {**INPUTS, "arithmetic": 2} if why == "other inputs" else INPUTS)
    if why == "no journal":
        (killed / JOURNAL).unlink()
    elif why == "a damaged journal":
        (killed / JOURNAL).write_text('{"inputs"')
    assert draft.resume({} if why == "not wanted" else SIZES) == 0 and names(killed) == set()


def test_a_shard_of_another_size_is_made_again(killed: Path, tmp_path: Path) -> None:
    (killed / "a").write_bytes(b"12")
    draft = Draft(tmp_path / "out", INPUTS)
    assert draft.resume(SIZES) == 1 and json.loads((killed / JOURNAL).read_text())["shards"] == {"b": []}


def test_a_failure_keeps_whole_shards_where_they_can_be_gone_on_from(killed: Path, tmp_path: Path) -> None:
    draft = Draft(tmp_path / "out", INPUTS)
    draft.resume(SIZES)
    (killed / "c").write_bytes(b"1")
    draft.sweep(resumable=True)
    assert names(killed) == {"a", "b", JOURNAL}
    draft.sweep(resumable=False)
    assert not killed.exists()


def test_what_is_published_has_no_journal(killed: Path, tmp_path: Path) -> None:
    draft = Draft(tmp_path / "out", INPUTS)
    draft.resume(SIZES)
    draft.publish()
    assert names(tmp_path / "out") == {"a", "b"} and not killed.exists()


def test_one_merge_to_a_folder_at_a_time(tmp_path: Path) -> None:
    with Draft(tmp_path / "out", INPUTS).locked():
        with pytest.raises(LabError, match="Another merge to .*out is running"), Draft(tmp_path / "out", INPUTS).locked():
            pass
        with Draft(tmp_path / "other", INPUTS).locked():
            pass
    with Draft(tmp_path / "out", INPUTS).locked():
        pass


def test_the_inputs_tell_one_merge_from_another(tmp_path: Path) -> None:
    base, adapter = write_base(tmp_path / "base"), write_adapter(tmp_path / "adapter")

    def inputs(method: str = "labkit") -> dict[str, Any]:
        return drafts.inputs(Weights.read(base), Adapter.read(adapter), method)

    first = inputs()
    assert first == inputs() == json.loads(json.dumps(first)) != inputs("peft")
    (base / "model.safetensors").touch()
    second = inputs()
    assert second["base"] != first["base"] and second["adapter"] == first["adapter"]
    (adapter / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text() + "\n")
    assert inputs()["adapter"] != second["adapter"]
