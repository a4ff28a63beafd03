"""VERL's own merger on checkpoints that two ranks write here, and the merge of the adapter that it leaves out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labkit import lora
from labkit.models import course_model
from labkit.models.profiles import profile
from labkit.training import verl

from .conftest import weights

RANK, ALPHA = 8, 24


@pytest.fixture(scope="module")
def place(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/, and in checkpoints/ what `verl.practise` says."""
    folder = tmp_path_factory.mktemp("verl")
    course_model.make(profile("tiny"), folder / "base")
    verl.practise(folder / "base", folder / "checkpoints")
    return folder


def state(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def test_a_full_checkpoint_becomes_the_trained_model(place: Path) -> None:
    folder = place / "checkpoints" / "full"
    before = state(folder)
    converted = verl.convert(folder, place / "full")
    assert weights(converted.folder) == weights(place / "checkpoints" / "full.reference")
    assert weights(converted.folder) != weights(place / "base"), "it was trained"
    assert not converted.merged and converted.adapter is None and converted.checkpoint.world_size == 2
    assert {"config.json", "tokenizer.json", "generation_config.json"} <= {path.name for path in converted.folder.iterdir()}
    assert state(folder) == before


def test_an_adapter_is_merged_as_peft_merges_it(place: Path) -> None:
    found = verl.detect(place / "checkpoints" / "lora")
    assert (found.contents, found.rank, found.alpha) == (verl.LORA, RANK, ALPHA)
    converted = verl.convert(found.folder, place / "lora")
    merged, base = weights(converted.folder), weights(place / "base")
    assert merged == weights(place / "checkpoints" / "lora.reference")
    assert sum(merged[name] != base[name] for name in base) == 7 * profile("tiny").shape.layers
    assert converted.merged and converted.adapter == converted.folder / "lora_adapter"
    assert lora.check(place / "base", converted.adapter)
    assert not list(place.glob(".*")), "a draft was left"


def test_an_adapter_alone_needs_the_base_and_what_was_not_written_down(place: Path) -> None:
    folder = place / "checkpoints" / "lora_only"
    (folder / "lora_train_meta.json").unlink()
    assert (verl.detect(folder).contents, verl.detect(folder).alpha) == (verl.ADAPTER_ONLY, None)
    converted = verl.convert(folder, place / "lora_only", base=place / "base", lora_alpha=ALPHA)
    assert weights(converted.folder) == weights(place / "checkpoints" / "lora.reference")
    assert converted.adapter and json.loads((converted.adapter / "adapter_config.json").read_text())["lora_alpha"] == ALPHA


def test_an_old_checkpoint_goes_through_the_older_script(place: Path) -> None:
    folder = place / "checkpoints" / "old"
    (folder / "huggingface").rename(folder.with_name("old.huggingface"))
    assert verl.detect(folder).module == verl.OLD
    converted = verl.convert(folder, place / "old", base=place / "base")
    found, wanted = weights(converted.folder), weights(place / "checkpoints" / "full.reference")
    assert found.pop("lm_head.weight") == wanted["model.embed_tokens.weight"], "that script writes a tied head too"
    assert found == wanted
