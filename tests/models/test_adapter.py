"""Adapters read from headers: scales, matching by PEFT's rules, pairs, and everything that does not fit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from lora_folders import PREFIX, model_tensors, pairs, write_adapter, write_base, write_json, write_tensors

from labkit.common.errors import LabError, VerificationError
from labkit.lora.pairing import Pairing, pair
from labkit.models.adapter import NOT_MERGED, Adapter
from labkit.models.headers import Weights, read_header

Q, DOWN = "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.down_proj"


def paired(tmp_path: Path, tensors: Any = None, base: Any = None, *, base_config: Any = None, **config: Any) -> Pairing:
    weights = Weights.read(write_base(tmp_path / "base", base, **(base_config or {})))
    return pair(weights, Adapter.read(write_adapter(tmp_path / "adapter", tensors, **config)))


def only(found: Pairing) -> tuple[str, str, str]:
    """(kind, what, where) of the one finding, which leaves out what it is about."""
    [finding] = found.findings
    return finding.kind, finding.what, finding.where


def adapter(tmp_path: Path, **config: Any) -> Adapter:
    return Adapter.read(write_adapter(tmp_path / "adapter", **config))


def test_the_scale_is_alpha_over_rank_and_over_its_root_with_rslora(tmp_path: Path) -> None:
    assert adapter(tmp_path, r=10, lora_alpha=24).scale_of(Q) == 2.4
    (tmp_path / "other").mkdir()
    assert adapter(tmp_path / "other", r=10, lora_alpha=24, use_rslora=True).scale_of(Q) == 24 / math.sqrt(10)


def test_patterns_match_endings_and_whole_names_and_the_first_counts(tmp_path: Path) -> None:
    patterns = {"layers.0.self_attn.q_proj": 2, "q_proj": 3, "^model.layers.1.mlp.down_proj": 5}
    read = adapter(tmp_path, rank_pattern=patterns, alpha_pattern={"down_proj": 9})
    assert [read.rank_of(name) for name in (Q.replace("1", "0"), Q, DOWN, "v_proj", "xq_proj")] == [2, 3, 5, 4, 4]
    assert read.scale_of(DOWN) == 9 / 5 and read.scale_of(Q) == 6 / 3
    assert read.highest_rank == 5


@pytest.mark.parametrize(
    ("config", "yes", "no"),
    [
        ({"target_modules": ["q_proj"]}, [Q, "q_proj"], [DOWN, "model.xq_proj"]),
        ({"target_modules": [Q]}, [Q, f"x.{Q}"], [Q.replace("1", "0")]),
        ({"target_modules": r".*layers\.1\..*proj"}, [Q, DOWN], [f"{Q}.x", Q.replace("1", "0")]),
        ({"target_modules": "all-linear"}, [Q, DOWN], ["lm_head"]),
        ({"target_modules": ["q_proj"], "layers_to_transform": [1]}, [Q], [Q.replace("1", "0"), Q.replace("1", "11")]),
        ({"target_modules": ["q_proj"], "layers_to_transform": 1, "layers_pattern": "layers"}, [Q], [Q.replace("1", "0")]),
        ({"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["h"]}, ["t.h.1.q_proj"], [Q]),
        ({"target_modules": ["q_proj", "down_proj"], "exclude_modules": ["down_proj"]}, [Q], [DOWN]),
        ({"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["lm_head"]}, [Q], ["lm_head"]),
    ],
)
def test_modules_are_matched_as_peft_matches_them(tmp_path: Path, config: dict[str, Any], yes: list[str], no: list[str]) -> None:
    read = adapter(tmp_path, **config)
    assert [name for name in [*yes, *no] if read.targets(name)] == yes


def test_every_pair_finds_its_tensor(tmp_path: Path) -> None:
    found = paired(tmp_path)
    assert not found.findings
    assert sorted(change.target.name for change in found.changes) == sorted(
        f"model.layers.{layer}.{name}.weight" for layer in (0, 1) for name in ("self_attn.q_proj", "mlp.down_proj")
    )
    [change] = [change for change in found.changes if change.module == DOWN]
    assert change.scale == 1.5 and not change.transposed and not change.rounds and change.start is change.target
    assert change.a is not None and change.a.shape == (4, 24) and change.b is not None and change.b.shape == (8, 4)


def test_embeddings_are_transposed_and_rounded_first(tmp_path: Path) -> None:
    stem = f"{PREFIX}model.embed_tokens"
    tensors = {f"{stem}.lora_embedding_A": ("F32", (4, 10)), f"{stem}.lora_embedding_B": ("F32", (8, 4))}
    found = paired(tmp_path, tensors, target_modules=["embed_tokens"])
    [change] = found.changes
    assert not found.findings and change.transposed and change.rounds


def test_what_was_trained_whole_takes_the_place_of_the_base(tmp_path: Path) -> None:
    tensors = pairs() | {
        f"{PREFIX}lm_head.weight": ("F32", (10, 8)),
        f"{PREFIX}model.layers.0.self_attn.q_proj.base_layer.weight": ("F32", (16, 8)),
    }
    found = paired(tmp_path, tensors, modules_to_save=["lm_head"])
    starts = {change.target.name: change for change in found.changes if change.start is not change.target}
    assert not found.findings and len(found.changes) == 5
    assert starts["lm_head.weight"].a is None
    assert starts["model.layers.0.self_attn.q_proj.weight"].a is not None


def test_gpt2_keeps_its_weights_the_other_way_round(tmp_path: Path) -> None:
    stems = {"h.0.attn.c_attn": (8, 24), "h.0.attn.c_proj": (8, 8)}
    base = {f"{stem}.weight": ("BF16", shape) for stem, shape in stems.items()}
    tensors = {f"{PREFIX}transformer.{stem}.lora_A.weight": ("F32", (4, shape[0])) for stem, shape in stems.items()}
    tensors |= {f"{PREFIX}transformer.{stem}.lora_B.weight": ("F32", (shape[1], 4)) for stem, shape in stems.items()}
    found = paired(tmp_path, tensors, base, base_config={"model_type": "gpt2"}, target_modules=["c_attn", "c_proj"])
    assert not found.findings and [change.transposed for change in found.changes] == [True, True]


def test_a_square_linear_layer_stays_as_it_is(tmp_path: Path) -> None:
    base = {"model.o_proj.weight": ("BF16", (8, 8))}
    tensors = {f"{PREFIX}model.o_proj.lora_A.weight": ("F32", (4, 8)), f"{PREFIX}model.o_proj.lora_B.weight": ("F32", (8, 4))}
    [change] = paired(tmp_path, tensors, base, target_modules=["o_proj"], fan_in_fan_out=True).changes
    assert not change.transposed


def test_dora_has_a_magnitude_for_each_output(tmp_path: Path) -> None:
    tensors = pairs() | {f"{PREFIX}model.layers.{layer}.self_attn.q_proj.lora_magnitude_vector": ("F32", (16,)) for layer in (0, 1)}
    tensors |= {f"{PREFIX}model.layers.{layer}.mlp.down_proj.lora_magnitude_vector.weight": ("F32", (8,)) for layer in (0, 1)}
    found = paired(tmp_path, tensors, use_dora=True)
    assert not found.findings and all(change.magnitude is not None for change in found.changes)


@pytest.mark.parametrize("name", [*NOT_MERGED])
def test_settings_that_are_not_merged_are_named(tmp_path: Path, name: str) -> None:
    kind, what, where = only(paired(tmp_path, **{name: {"some": "value"}}))
    assert kind == name and f"{name} is set" in what and where == "adapter/adapter_config.json"


@pytest.mark.parametrize(
    ("start", "refused"), [("pissa_niter_4", True), ("OLoRA", True), ("loftq", True), ("gaussian", False), (True, False)]
)
def test_initialisations_that_change_the_base_are_refused(tmp_path: Path, start: Any, refused: bool) -> None:
    assert bool(paired(tmp_path, init_lora_weights=start).findings) == refused


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in pairs().items() if name not in key}


MISFITS: dict[str, tuple[dict[str, Any], str, str]] = {
    "another module": (
        {"tensors": pairs() | {f"{PREFIX}x.q_proj.lora_{h}.weight": ("F32", (4, 4)) for h in "AB"}},
        "base mismatch",
        "x.q_proj",
    ),
    "another shape": ({"base": model_tensors() | {f"{Q}.weight": ("BF16", (32, 8))}}, "base mismatch", f"{Q}: 16 x 8 against 32 x 8"),
    "half a pair": ({"tensors": without("layers.1.self_attn.q_proj.lora_B")}, "half a pair", Q),
    "another rank": ({"r": 8}, "rank", "4, not 8 and 3 more"),
    "not targeted": ({"target_modules": ["q_proj"]}, "not targeted", "mlp.down_proj and 1 more"),
    "a stray tensor": ({"tensors": pairs() | {f"{PREFIX}model.x": ("F32", (2,))}}, "unknown tensors", "model.x"),
    "a lora bias": ({"tensors": pairs() | {f"{PREFIX}{Q}.lora_B.bias": ("F32", (16,))}}, "lora_bias", Q),
    "alpha 0": ({"lora_alpha": 0}, "lora_alpha", "adapter_config.json"),
    "alpha 0 in a pattern": ({"alpha_pattern": {"down_proj": 0}}, "lora_alpha", "adapter_config.json"),
    "no tensors": ({"tensors": {}}, "empty", "adapter_model.safetensors"),
    "idle target": ({"target_modules": ["q_proj", "down_proj", "w_pack"]}, "target modules", "adapter_config.json"),
    "dora without magnitudes": ({"use_dora": True}, "dora", "and 3 more"),
    "fp8 base": ({"base": model_tensors("F8_E4M3")}, "tensor type", "F8_E4M3"),
    "integer adapter": ({"tensors": pairs(dtype="I8")}, "tensor type", "I8"),
    "a convolution": ({"base": model_tensors() | {f"{Q}.weight": ("BF16", (16, 8, 1))}}, "layer kind", Q),
    "grown embedding": (
        {"tensors": pairs() | {f"{PREFIX}model.embed_tokens.weight": ("F32", (12, 8))}, "modules_to_save": ["embed_tokens"]},
        "vocabulary",
        "12 x 8 against 10 x 8",
    ),
    "tied head": (
        {"tensors": pairs() | {f"{PREFIX}lm_head.weight": ("F32", (10, 8))}, "base_config": {"tie_word_embeddings": True}},
        "tied embeddings",
        "lm_head",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_found_and_left_out(tmp_path: Path, name: str) -> None:
    request, kind, where = MISFITS[name]
    found = paired(tmp_path, **request)
    [finding] = found.findings
    assert finding.kind == kind and where in finding.where and finding.breaks and finding.fix
    assert (finding.severity == "look") == (name == "idle target")


def test_a_pickle_is_refused_with_the_reason(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(LabError, match="adapter_model.bin is a Python pickle: reading one can run any program") as caught:
        Adapter.read(folder)
    assert "allow_pickle=True" in caught.value.fix
    assert Adapter.read(folder, allow_pickle=True).pickled


def test_folders_that_are_no_adapter_are_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="is no adapter folder: it has no adapter_config.json"):
        Adapter.read(tmp_path)
    folder = write_adapter(tmp_path / "adapter")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(LabError, match="neither adapter_model.safetensors nor adapter_model.bin"):
        Adapter.read(folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(LabError, match="adapter_config.json cannot be read"):
        Adapter.read(folder)


def test_headers_say_where_every_tensor_lies(tmp_path: Path) -> None:
    path = write_tensors(tmp_path / "x.safetensors", {"b": ("F32", (2, 3)), "a": ("BF16", (5,)), "none": ("F32", (0, 4))})
    found = read_header(path)
    size = int.from_bytes(path.read_bytes()[:8], "little")
    assert [(one.name, one.offset - 8 - size, one.bytes) for one in found.values()] == [("b", 0, 24), ("a", 24, 10), ("none", 34, 0)]


@pytest.mark.parametrize(
    "content", [b"", b"\x05", (2**40).to_bytes(8, "little"), (2).to_bytes(8, "little") + b"[]", (4).to_bytes(8, "little") + b"\xff{}}"]
)
def test_files_that_are_no_safetensors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError):
        read_header(path)


def test_a_header_whose_sizes_do_not_add_up(tmp_path: Path) -> None:
    path = write_tensors(tmp_path / "x.safetensors", {"a": ("F32", (4,))})
    path.write_bytes(path.read_bytes().replace(b"[4]", b"[5]"))
    with pytest.raises(ValueError, match="a has 16 bytes, not those of its shape"):
        read_header(path)


def test_a_base_names_what_is_wrong_with_it(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    index = {"weight_map": dict.fromkeys(model_tensors(), "model-00001-of-00001.safetensors")}
    write_json(base / "model.safetensors.index.json", index)
    with pytest.raises(VerificationError, match="model-00001-of-00001.safetensors is missing"):
        Weights.read(base)
    (base / "model.safetensors").rename(base / "model-00001-of-00001.safetensors")
    assert set(Weights.read(base).tensors) == set(model_tensors())
    write_json(base / "model.safetensors.index.json", {"weight_map": index["weight_map"] | {"x": "model-00001-of-00001.safetensors"}})
    with pytest.raises(VerificationError, match="1 tensors are not in the shard .* first x"):
        Weights.read(base)
    (base / "model.safetensors.index.json").unlink()
    with pytest.raises(VerificationError, match="index.json is missing"):
        Weights.read(base)
    (base / "model-00001-of-00001.safetensors").unlink()
    with pytest.raises(LabError, match="holds no safetensors file"):
        Weights.read(base)


def test_reading_needs_neither_torch_nor_numbers(tmp_path: Path) -> None:
    import subprocess
    import sys

    base, folder = write_base(tmp_path / "base"), write_adapter(tmp_path / "adapter")
    code = "import json, sys; from labkit.lora import check; check(*sys.argv[1:]); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(base), str(folder)], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert not {"torch", "numpy", "safetensors", "transformers"} & set(json.loads(done.stdout))
