"""What a checkpoint folder of VERL is, told from names and lists; and what is refused before anything runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from labkit.common import logs
from labkit.common.errors import SettingError
from labkit.models import course_model
from labkit.models.profiles import profile
from labkit.runtimes import environments
from labkit.training import verl

FULL = ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "lm_head.weight"]
STEM = "base_model.model.model.layers.0.self_attn.q_proj"
ADAPTER = [f"{STEM}.lora_A.default.weight", f"{STEM}.lora_B.default.weight"]
WITH_BASE = [f"{STEM}.base_layer.weight", *ADAPTER]
META = {"r": 8, "lora_alpha": 16, "task_type": "CAUSAL_LM"}


def shard(path: Path, content: object) -> None:
    """A file as torch.save lays it out: a zip of a pickle and the bytes of the tensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}/data.pkl", pickle.dumps(content, protocol=2))
        archive.writestr(f"{path.stem}/data/0", b"0" * 64)


def checkpoint(folder: Path, names: list[str], *, ranks: int = 2, config: bool = True, meta: dict[str, Any] | None = None) -> Path:
    """A whole FSDP checkpoint as VERL 0.9.1 lays it out, without numbers in it."""
    for rank in range(ranks):
        shard(folder / f"model_world_size_{ranks}_rank_{rank}.pt", dict.fromkeys(names))
    (folder / "huggingface").mkdir()
    (folder / "huggingface" / "config.json").write_text("{}")
    if config:
        (folder / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": ranks}))
    if meta:
        (folder / "lora_train_meta.json").write_text(json.dumps(meta))
    return folder


def megatron(folder: Path, *, inside: str = "model") -> Path:
    (folder / inside / "dist_ckpt").mkdir(parents=True)
    (folder / inside / "dist_ckpt" / "__0_0.distcp").write_bytes(b"0" * 64)
    (folder / inside / "huggingface").mkdir()
    (folder / inside / "huggingface" / "config.json").write_text('{"tie_word_embeddings": true}')
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No environment may be asked for by what is refused before anything runs."""
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(environments, "python", lambda engine: pytest.fail("an environment was asked for"))
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("names", "meta", "contents", "rank", "alpha"),
    [(FULL, None, verl.FULL, None, None), (WITH_BASE, META, verl.LORA, 8, 16), (ADAPTER, None, verl.ADAPTER_ONLY, None, None)],
)
def test_what_it_holds(
    tmp_path: Path, names: list[str], meta: dict[str, Any] | None, contents: str, rank: int | None, alpha: int | None
) -> None:
    found = verl.detect(checkpoint(tmp_path / "actor", names, meta=meta))
    assert (found.backend, found.world_size, found.version, found.missing) == ("fsdp", 2, "2", ())
    assert (found.contents, found.rank, found.alpha, found.module) == (contents, rank, alpha, verl.NEW)
    assert contents in str(found) and contents in found._repr_html_()


def test_the_step_folder_will_do(tmp_path: Path) -> None:
    checkpoint(tmp_path / "global_step_9" / "actor", FULL)
    assert verl.detect(tmp_path / "global_step_9").folder == tmp_path / "global_step_9" / "actor"


def test_alpha_is_also_where_older_versions_wrote_it(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "actor", WITH_BASE)
    (folder / "lora_adapter").mkdir()
    (folder / "lora_adapter" / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 12}))
    found = verl.detect(folder)
    assert (found.rank, found.alpha) == (4, 12)


def test_looking_runs_nothing(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    folder = checkpoint(tmp_path / "actor", FULL, ranks=1)
    shard(folder / "model_world_size_1_rank_0.pt", {"model.norm.weight": Trap()})
    assert verl.detect(folder).contents == verl.FULL
    assert not (tmp_path / "sprung").exists()
    with zipfile.ZipFile(folder / "model_world_size_1_rank_0.pt") as archive:
        pickle.load(io.BytesIO(archive.read("model_world_size_1_rank_0/data.pkl")))
    assert (tmp_path / "sprung").exists(), "the trap works"


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "actor", FULL, ranks=4)
    (folder / "model_world_size_4_rank_2.pt").unlink()
    whole = (folder / "model_world_size_4_rank_3.pt").read_bytes()
    (folder / "model_world_size_4_rank_3.pt").write_bytes(whole[: len(whole) // 2])
    expected = ("model_world_size_4_rank_2.pt", "model_world_size_4_rank_3.pt (cut off or damaged)")
    assert verl.detect(folder).missing == expected
    with pytest.raises(SettingError, match="(?s)rank_2.pt, model_world_size_4_rank_3.pt .* copy those of all nodes"):
        verl.convert(folder, tmp_path / "out")


@pytest.mark.parametrize("lost", ["fsdp_config.json", "huggingface/config.json"])
def test_older_checkpoints_need_the_older_script(tmp_path: Path, lost: str) -> None:
    folder = checkpoint(tmp_path / "actor", FULL)
    (folder / lost).unlink()
    assert verl.detect(folder).module == verl.OLD


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="is no checkpoint of VERL"):
        verl.detect(tmp_path)


def test_refused_before_anything_runs(tmp_path: Path, home: Path) -> None:
    unsaid = checkpoint(tmp_path / "unsaid", WITH_BASE)
    only = checkpoint(tmp_path / "only", ADAPTER, meta=META)
    full = checkpoint(tmp_path / "full", FULL)
    unnamed = checkpoint(tmp_path / "unnamed", FULL)
    (unnamed / "huggingface" / "config.json").unlink()
    zero = checkpoint(tmp_path / "zero", WITH_BASE, meta=META | {"lora_alpha": 0})
    out = tmp_path / "out"
    for folder, options, said in [
        (unsaid, {}, "does not say what lora_alpha is.*would be the untrained one"),
        (zero, {}, "does not say what lora_alpha is"),
        (only, {}, "holds an adapter only.*no base to merge it into"),
        (full, {"lora_alpha": 16}, "holds no adapter"),
        (full, {"base": tmp_path / "nowhere"}, "nowhere is not there"),
        (unnamed, {}, "has no huggingface/config.json"),
    ]:
        with pytest.raises(SettingError, match=said):
            verl.convert(folder, out, **options)  # type: ignore[arg-type]
    out.mkdir()
    (out / "config.json").write_text("{}")
    with pytest.raises(SettingError, match="is not empty"):
        verl.convert(full, out)
    assert not home.exists()


def test_megatron_checkpoints_that_the_merger_is_not_for(tmp_path: Path) -> None:
    saved = megatron(tmp_path / "saved")
    (saved / "model" / "huggingface" / "model.safetensors").write_bytes(b"")
    adapter = megatron(tmp_path / "adapter")
    (adapter / "ckpt_contents.json").write_text('{"peft": true}')
    old = tmp_path / "old"
    shard(old / "model" / "mp_rank_00" / "model.pt", {})
    (old / "model" / "huggingface").mkdir()
    (old / "model" / "huggingface" / "config.json").write_text("{}")
    empty = megatron(tmp_path / "empty")
    (empty / "model" / "dist_ckpt" / "__0_0.distcp").unlink()
    for folder, said in [
        (saved, "is a whole model already"),
        (adapter, "megatron_merge_lora.py"),
        (old, "(?s)mp_rank folders.*legacy_model_merger.py merge --backend megatron"),
        (empty, "missing: empty/model/dist_ckpt"),
    ]:
        assert verl.detect(folder).backend == "megatron"
        with pytest.raises(SettingError, match=said):
            verl.convert(folder, tmp_path / "out")


def test_megatron_needs_an_environment_with_megatron(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "python", lambda engine: Path(sys.executable))
    with pytest.raises(SettingError, match="has no megatron-core"):
        verl.convert(megatron(tmp_path / "actor"), tmp_path / "out")


@pytest.mark.parametrize("inside", ["model", "."])
def test_both_layouts_of_megatron_are_shown_to_the_merger_as_one(tmp_path: Path, inside: str) -> None:
    folder = megatron(tmp_path / "actor", inside=inside)
    found = verl.detect(folder)
    shown = verl._as_now(found, tmp_path / "shown")
    assert (shown / "model" / "dist_ckpt" / "__0_0.distcp").read_bytes() == b"0" * 64
    words = verl._arguments(found, shown, tmp_path / "out", None)
    assert words == [
        "merge",
        "--backend",
        "megatron",
        "--local_dir",
        str(shown),
        "--target_dir",
        str(tmp_path / "out"),
        "--tie-word-embedding",
    ]
    assert sorted(path.name for path in folder.iterdir()) == (["model"] if inside == "model" else ["dist_ckpt", "huggingface"])


def test_an_environment_without_the_older_script_is_told_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "python", lambda engine: Path(sys.executable))
    folder = checkpoint(tmp_path / "actor", FULL, config=False)
    with pytest.raises(SettingError, match=rf"python scripts/legacy_model_merger.py merge --backend fsdp --local_dir {folder}"):
        verl.convert(folder, tmp_path / "out")


def test_where_the_model_is_not_named_the_older_script_is_told(tmp_path: Path) -> None:
    base = course_model.make(profile("tiny"), tmp_path / "tiny")
    folder = checkpoint(tmp_path / "actor", FULL)
    (folder / "huggingface" / "config.json").unlink()
    words = verl._arguments(verl.detect(folder), folder, tmp_path / "out", base)
    assert words[-2:] == ["--hf_model_path", str(base)]


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("ModuleNotFoundError: No module named 'megatron'", "has no megatron"),
        ("AssertionError: Unsupported mesh_dim_names ('dp', 'tp')", "device mesh ('dp', 'tp')"),
        ("_pickle.UnpicklingError: invalid load key", "cannot be read: invalid load key"),
    ],
)
def test_its_words_are_explained(line: str, meaning: str) -> None:
    verdict = logs.explain(f"Traceback\n{line}\n", verl.KNOWN)
    assert meaning in verdict.cause and verdict.fix
