"""What a checkpoint folder of VERL is, told from names and lists; nothing of it is run."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
from verl_folders import ADAPTER, FULL, META, WITH_BASE, checkpoint, shard

from labkit.common.errors import SettingError
from labkit.training import verl_checkpoint


@pytest.mark.parametrize(
    ("names", "meta", "contents", "rank", "alpha"),
    [
        (FULL, None, verl_checkpoint.FULL, None, None),
        (WITH_BASE, META, verl_checkpoint.LORA, 8, 16),
        (ADAPTER, None, verl_checkpoint.ADAPTER_ONLY, None, None),
    ],
)
def test_what_it_holds(
    tmp_path: Path, names: list[str], meta: dict[str, Any] | None, contents: str, rank: int | None, alpha: int | None
) -> None:
    found = verl_checkpoint.detect(checkpoint(tmp_path / "actor", names, meta=meta))
    assert (found.backend, found.world_size, found.version, found.missing) == ("fsdp", 2, "2", ())
    assert (found.contents, found.rank, found.alpha, found.module) == (contents, rank, alpha, verl_checkpoint.NEW)
    assert contents in str(found) and contents in found._repr_html_()


def test_the_step_folder_will_do(tmp_path: Path) -> None:
    checkpoint(tmp_path / "global_step_9" / "actor", FULL)
    assert verl_checkpoint.detect(tmp_path / "global_step_9").folder == tmp_path / "global_step_9" / "actor"


def test_alpha_is_also_where_older_versions_wrote_it(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "actor", WITH_BASE)
    (folder / "lora_adapter").mkdir()
    (folder / "lora_adapter" / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 12}))
    found = verl_checkpoint.detect(folder)
    assert (found.rank, found.alpha) == (4, 12)


def test_looking_runs_nothing(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    folder = checkpoint(tmp_path / "actor", FULL, ranks=1)
    shard(folder / "model_world_size_1_rank_0.pt", {"model.norm.weight": Trap()})
    assert verl_checkpoint.detect(folder).contents == verl_checkpoint.FULL
    assert not (tmp_path / "sprung").exists()
    with zipfile.ZipFile(folder / "model_world_size_1_rank_0.pt") as archive:
        pickle.load(io.BytesIO(archive.read("model_world_size_1_rank_0/data.pkl")))
    assert (tmp_path / "sprung").exists(), "the trap works"


@pytest.mark.parametrize("lost", ["fsdp_config.json", "huggingface/config.json"])
def test_older_checkpoints_need_the_older_script(tmp_path: Path, lost: str) -> None:
    folder = checkpoint(tmp_path / "actor", FULL)
    (folder / lost).unlink()
    assert verl_checkpoint.detect(folder).module == verl_checkpoint.OLD


def test_a_folder_of_steps_names_the_last_one(tmp_path: Path) -> None:
    for step in (9, 10):
        (tmp_path / f"global_step_{step}" / "actor").mkdir(parents=True)
    with pytest.raises(SettingError) as caught:
        verl_checkpoint.detect(tmp_path)
    assert str(tmp_path / "global_step_10" / "actor") in caught.value.fix


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="is no checkpoint of VERL"):
        verl_checkpoint.detect(tmp_path)


def shards(folder: Path, world: int, ranks: list[int], names: list[str] = FULL) -> None:
    for rank in ranks:
        shard(folder / f"model_world_size_{world}_rank_{rank}.pt", dict.fromkeys(names))


@pytest.mark.parametrize(
    ("said", "there", "missing", "others"),
    [
        (4, {8: [0, 1, 2, 3]}, [0, 1, 2, 3], (8,)),
        (4, {2: [0, 1], 4: [2, 3]}, [0, 1], (2,)),
        (4, {2: [0, 1], 4: [0, 1, 2, 3]}, [], (2,)),
        (16, {16: [*range(8)]}, [*range(8, 16)], ()),
        (64, {64: [*range(48, 56)]}, [rank for rank in range(64) if not 48 <= rank < 56], ()),
        (0, {2: [0, 1], 4: [2, 3]}, [], (4,)),
        (0, {4: [2, 3]}, [0, 1], ()),
    ],
)
def test_every_file_that_is_opened_is_there_or_named(
    tmp_path: Path, said: int, there: dict[int, list[int]], missing: list[int], others: tuple[int, ...]
) -> None:
    folder = checkpoint(tmp_path / "actor", FULL, ranks=1, config=False)
    (folder / "model_world_size_1_rank_0.pt").unlink()
    for world, ranks in there.items():
        shards(folder, world, ranks)
    if said:
        (folder / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 1, "world_size": said}))
    found = verl_checkpoint.detect(folder)
    assert found.missing == tuple(f"model_world_size_{found.world_size}_rank_{rank}.pt" for rank in missing)
    assert found.others == others and (found.world_size == said or not said)


def test_what_it_holds_is_told_from_the_shards_that_count(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "actor", FULL)
    shards(folder, 4, [0], WITH_BASE)
    assert verl_checkpoint.detect(folder).contents == verl_checkpoint.FULL
    assert "shards of 4 ranks" in str(verl_checkpoint.detect(folder))
