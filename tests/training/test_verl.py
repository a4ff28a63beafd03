"""Converting checkpoints of VERL: what is refused before anything runs, and what its commands are told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from verl_folders import ADAPTER, FULL, META, WITH_BASE, checkpoint, megatron, shard

from labkit.common.errors import SettingError
from labkit.failures.verdicts import explain_text
from labkit.models import course_model
from labkit.models.profiles import profile
from labkit.runtimes import environments
from labkit.training import verl


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No environment may be asked for by what is refused before anything runs."""
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(environments, "python", lambda engine: pytest.fail("an environment was asked for"))
    return tmp_path / "home"


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "actor", FULL, ranks=4)
    (folder / "model_world_size_4_rank_2.pt").unlink()
    whole = (folder / "model_world_size_4_rank_3.pt").read_bytes()
    (folder / "model_world_size_4_rank_3.pt").write_bytes(whole[: len(whole) // 2])
    expected = ("model_world_size_4_rank_2.pt", "model_world_size_4_rank_3.pt (cut off or damaged)")
    assert verl.detect(folder).missing == expected
    with pytest.raises(SettingError, match="(?s)rank_2.pt, model_world_size_4_rank_3.pt .* copy those of all nodes"):
        verl.convert(folder, tmp_path / "out")


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
    shown = verl._current_layout(found, tmp_path / "shown")
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
    verdict = explain_text(f"Traceback (most recent call last):\n{line}\n", engine=verl.ENGINE)
    assert meaning in verdict.cause and verdict.fix
