"""Tensors of an adapter held against those of a base: every pair that fits, and everything that does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lora_folders import LORA, PREFIX, model_tensors, pairs, write_adapter, write_base, write_json

from labkit.lora.findings import WRAPPED
from labkit.lora.pairing import Pairing, pair
from labkit.models.adapter import NOT_MERGED, Adapter
from labkit.models.headers import Weights

Q, DOWN = "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.down_proj"


def paired(tmp_path: Path, tensors: Any = None, base: Any = None, *, base_config: Any = None, **config: Any) -> Pairing:
    weights = Weights.read(write_base(tmp_path / "base", base, **(base_config or {})))
    return pair(weights, Adapter.read(write_adapter(tmp_path / "adapter", tensors, **config)))


def only(found: Pairing) -> tuple[str, str, str]:
    """(kind, what, where) of the one finding, which leaves out what it is about."""
    [finding] = found.findings
    return finding.kind, finding.what, finding.where


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
    kind, what, where = only(paired(tmp_path, **{name: ["some"]}))
    assert kind == name and f"{name} is set" in what and where == "adapter/adapter_config.json"


@pytest.mark.parametrize(
    ("start", "refused"), [("pissa_niter_4", True), ("OLoRA", True), ("loftq", True), ("gaussian", False), (True, False)]
)
def test_initialisations_that_change_the_base_are_refused(tmp_path: Path, start: Any, refused: bool) -> None:
    assert bool(paired(tmp_path, init_lora_weights=start).findings) == refused


@pytest.mark.parametrize(
    ("start", "again"), [("pissa", True), ("olora", True), ("pissa_niter_16", False), ("corda", False), ("loftq", False)]
)
def test_peft_s_way_is_named_only_where_it_leads_to_what_was_trained(tmp_path: Path, start: str, again: bool) -> None:
    [finding] = paired(tmp_path, init_lora_weights=start).findings
    assert finding.peft == again and ('method="peft"' in finding.advice) == again and finding.fix


@pytest.mark.parametrize("dtype", ["F64", "F8_E4M3", "F8_E5M2", "F16"])
def test_an_adapter_of_any_floating_type_is_read_as_peft_reads_it(tmp_path: Path, dtype: str) -> None:
    found = paired(tmp_path, pairs(dtype=dtype))
    assert len(found.changes) == 4 and not found.findings


@pytest.mark.parametrize(
    ("rename", "said"),
    [
        (lambda key: key.removeprefix(PREFIX), "do not begin"),
        (lambda key: key.replace("lora_A.", "lora_A.policy.").replace("lora_B.", "lora_B.policy."), "policy"),
        (lambda key: f"model.{key}", "model"),
    ],
)
def test_keys_that_peft_does_not_find_are_read_and_told(tmp_path: Path, rename: Callable[[str], str], said: str) -> None:
    found = paired(tmp_path, {rename(key): row for key, row in pairs().items()})
    [finding] = found.findings
    assert len(found.changes) == 4 and finding.kind == WRAPPED and said in finding.what


def test_a_rank_that_nobody_wrote_down_is_peft_s_default(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", pairs(rank=8))
    write_json(adapter / "adapter_config.json", {name: value for name, value in LORA.items() if name != "r"})
    weights = Weights.read(write_base(tmp_path / "base"))
    assert {change.scale for change in pair(weights, Adapter.read(adapter)).changes} == {6 / 8}


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
    "dora without magnitudes": ({"use_dora": True}, "dora", "and 3 more"),
    "fp8 base": ({"base": model_tensors("F8_E4M3")}, "tensor type", "F8_E4M3"),
    "integer adapter": ({"tensors": pairs(dtype="I8")}, "adapter type", "I8"),
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
    assert finding.severity == "blocks"
