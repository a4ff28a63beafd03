"""A base that is not what its folder says, each planted in one that is otherwise right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lora_folders import model_tensors, pairs, write_adapter, write_base, write_json

from labkit.lora import companions
from labkit.lora.checks import check
from labkit.lora.findings import BLOCKS, LOOK

HEADLESS = {name: row for name, row in model_tensors().items() if not name.startswith("lm_head")}


def renamed(name: Callable[[str], str]) -> dict[str, Any]:
    return {name(tensor): row for tensor, row in model_tensors().items()}


def test_an_adapter_in_the_base_s_folder_is_a_second_model(tmp_path: Path) -> None:
    base, adapter = write_base(tmp_path / "base"), write_adapter(tmp_path / "adapter")
    write_json(base / "adapter_config.json", {"peft_type": "LORA"})
    [finding] = check(base, adapter)["adapter in base"]
    assert finding.severity == BLOCKS and not check(base, adapter).blocking(["adapter in base"])
    assert "adapter_config.json" not in companions.files(base)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (lambda name: f"_orig_mod.{name}", "_orig_mod"),
        (lambda name: f"module.{name}", "module"),
        (lambda name: name.replace(".mlp", "._fsdp_wrapped_module.mlp").replace(".self", "._fsdp_wrapped_module.self"), "_fsdp"),
        (lambda name: f"base_model.model.{name}".replace("q_proj.", "q_proj.base_layer."), "base_model.model"),
    ],
)
def test_names_of_wrappers_in_the_base_are_its_own_fault(tmp_path: Path, name: Callable[[str], str], said: str) -> None:
    report = check(write_base(tmp_path / "base", renamed(name)), write_adapter(tmp_path / "adapter"))
    [finding] = report.blocking()
    assert finding.kind == "base names" and said in finding.what and "trained on" not in finding.advice


@pytest.mark.parametrize("tied", [False, None])
def test_a_head_that_should_be_there(tmp_path: Path, tied: bool | None) -> None:
    base = write_base(tmp_path / "base", HEADLESS, tie_word_embeddings=tied)
    [finding] = check(base, write_adapter(tmp_path / "adapter")).blocking()
    assert finding.kind == "no head" and "tie_word_embeddings" in finding.advice


@pytest.mark.parametrize(
    ("tensors", "config"),
    [
        (HEADLESS, {"tie_word_embeddings": True}),
        (HEADLESS, {"architectures": ["Qwen3Model"]}),
        (HEADLESS, {"model_type": "of_its_own", "tie_word_embeddings": None}),
        (HEADLESS | {"a_head_by_another_name.weight": ("BF16", (10, 8))}, {}),
        (model_tensors(), {}),
    ],
)
def test_a_head_that_need_not_be_there_or_is(tmp_path: Path, tensors: Any, config: dict[str, Any]) -> None:
    assert check(write_base(tmp_path / "base", tensors, **config), write_adapter(tmp_path / "adapter"))


@pytest.mark.parametrize("task", ["SEQ_CLS", "TOKEN_CLS", "CAUSAL_LM", None])
def test_a_classifier_s_adapter_without_its_head(tmp_path: Path, task: str | None) -> None:
    report = check(write_base(tmp_path / "base"), write_adapter(tmp_path / "adapter", task_type=task))
    assert report and [finding.severity for finding in report["no such head"]] == ([LOOK] if task in ("SEQ_CLS", "TOKEN_CLS") else [])


@pytest.mark.parametrize(("kind", "blocks"), [("default", False), ("linear", False), ("dynamic", True), ("yarn", True)])
def test_a_longer_prompt_is_another_model_only_where_angles_depend_on_it(tmp_path: Path, kind: str, blocks: bool) -> None:
    scaling = {"rope_type": kind, "factor": 2.0}
    base, adapter = write_base(tmp_path / "base", rope_scaling=scaling), write_adapter(tmp_path / "adapter", pairs())
    config = {"model_type": "qwen3", "rope_theta": 1000000, "rope_scaling": scaling, "max_position_embeddings": 512}
    write_json(adapter / "config.json", config)
    [finding] = check(base, adapter)["rope"]
    assert (finding.severity == BLOCKS) == blocks and ("angles" in finding.breaks) == blocks
