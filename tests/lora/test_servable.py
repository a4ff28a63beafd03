"""Which engine serves which adapter unmerged, and that no advice sends anybody where it cannot be done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lora_folders import PREFIX, pairs, write_adapter, write_base

from labkit.lora.checks import alone, check
from labkit.lora.findings import BLOCKS, LOOK
from labkit.lora.servable import SGLANG, VLLM, serving
from labkit.models.adapter import Adapter

REFUSED: dict[str, tuple[dict[str, Any], bool, bool, str]] = {
    "plain": ({}, True, True, ""),
    "rsLoRA": ({"use_rslora": True}, True, False, "alpha / rank"),
    "alpha pattern": ({"alpha_pattern": {"q_proj": 3}}, True, False, "one scale"),
    "rank pattern": ({"rank_pattern": {"q_proj": 4}}, True, False, "one rank"),
    "regular expression": ({"target_modules": ".*(q|down)_proj"}, True, False, "regular expression"),
    "DoRA": ({"use_dora": True}, False, False, "DoRA"),
    "bias": ({"bias": "all"}, False, False, "bias all"),
    "lora_bias": ({"lora_bias": True}, False, False, "lora_bias"),
    "PiSSA": ({"init_lora_weights": "pissa"}, False, False, "pissa"),
    "OLoRA": ({"init_lora_weights": "olora"}, False, False, "olora"),
    "gaussian": ({"init_lora_weights": "gaussian"}, True, True, ""),
    "aLoRA": ({"alora_invocation_tokens": [1]}, False, False, "aLoRA"),
    "replication": ({"layer_replication": [[0, 2]]}, False, False, "layer_replication"),
    "BD-LoRA": ({"use_bdlora": {"nblocks": 2}}, False, False, "BD-LoRA"),
    "QALoRA": ({"use_qalora": True}, False, False, "QALoRA"),
    "tokens": ({"trainable_token_indices": [5]}, False, False, "trainable_token_indices"),
    "embedding whole": ({"modules_to_save": ["embed_tokens"]}, False, False, "modules_to_save"),
    "another kind": ({"peft_type": "IA3"}, False, False, "IA3"),
    "no alpha": ({"lora_alpha": None}, False, False, "lacks lora_alpha"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_each_engine_s_verdict(tmp_path: Path, name: str) -> None:
    config, vllm, sglang, said = REFUSED[name]
    verdicts = {verdict.engine: verdict for verdict in serving(Adapter.read(write_adapter(tmp_path / "adapter", **config)))}
    assert (bool(verdicts[VLLM]), bool(verdicts[SGLANG])) == (vllm, sglang)
    assert all(said in str(verdict) for verdict in [*filter(lambda verdict: not verdict, verdicts.values())][:1])


@pytest.mark.parametrize("name", REFUSED)
def test_the_plain_check_tells_and_a_server_s_check_refuses(tmp_path: Path, name: str) -> None:
    config, vllm, sglang, _ = REFUSED[name]
    base, adapter = write_base(tmp_path / "base"), write_adapter(tmp_path / "adapter", **config)
    plain = check(base, adapter)
    assert len(plain.serving) == 2 and all(str(verdict) in str(plain) for verdict in plain.serving)
    assert all(finding.severity == LOOK for finding in plain["not servable"])
    assert (len(plain["not servable"]) == 2) == (not vllm and not sglang)
    for engine, served in ((VLLM, vllm), (SGLANG, sglang)):
        refused = check(base, adapter, engine=engine)["not servable"]
        assert [finding.severity for finding in refused] == ([] if served else [BLOCKS])
        assert bool(alone(Adapter.read(adapter), engine=engine)) == served


@pytest.mark.parametrize("name", [name for name, row in REFUSED.items() if not row[1] and not row[2]])
def test_advice_is_of_what_can_be_done(tmp_path: Path, name: str) -> None:
    report = check(write_base(tmp_path / "base"), write_adapter(tmp_path / "adapter", **REFUSED[name][0]), max_lora_rank=16)
    advice = " ".join(finding.advice for finding in report.findings)
    assert "serve it as an adapter" not in advice
    if name in ("aLoRA", "replication", "QALoRA"):
        assert 'method="peft"' not in advice and "It cannot be merged as it is either" in advice
    if name in ("PiSSA", "BD-LoRA", "tokens", "another kind"):
        assert 'method="peft"' in advice and not [finding for finding in report.blocking(peft=True) if finding.kind != "not servable"]


def test_biases_that_no_layer_has_are_nothing_for_peft_either(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", lora_bias=True)
    [finding] = check(write_base(tmp_path / "base"), adapter)["lora_bias"]
    assert not finding.peft


@pytest.mark.parametrize(
    ("rank", "limit", "served"), [(16, None, True), (17, None, False), (128, None, False), (128, 128, True), (600, 512, False)]
)
def test_a_rank_above_the_limit(tmp_path: Path, rank: int, limit: int | None, served: bool) -> None:
    base, adapter = write_base(tmp_path / "base"), write_adapter(tmp_path / "adapter", pairs(rank), r=rank)
    report = check(base, adapter, max_lora_rank=limit)
    assert bool(report["rank above limit"]) == (not served)
    if limit is None and not served:
        [finding] = report["rank above limit"]
        assert report and finding.severity == LOOK and f"max_lora_rank={32 if rank == 17 else 128}" in finding.fix


@pytest.mark.parametrize("module", ["visual.blocks.0.attn.qkv", "model.vision_tower.layers.0.fc1"])
def test_what_sees_is_left_out_by_the_engines(tmp_path: Path, module: str) -> None:
    keys = {f"{PREFIX}{module}.lora_{half}.weight": ("F32", (4, 4)) for half in "AB"}
    verdicts = serving(Adapter.read(write_adapter(tmp_path / "adapter", pairs() | keys)))
    assert not any(verdicts) and all(module in str(verdict) for verdict in verdicts)


def test_keys_of_a_wrapper_are_not_for_vllm(tmp_path: Path) -> None:
    adapter = Adapter.read(write_adapter(tmp_path / "adapter", {f"_orig_mod.{name}": row for name, row in pairs().items()}))
    vllm, sglang = serving(adapter)
    assert not vllm and "_orig_mod" in str(vllm) and "was not tried" in str(sglang)
