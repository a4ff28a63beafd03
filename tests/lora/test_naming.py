"""Modules found under the names that another version of transformers gives them, and what is said where none is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.lora.naming import Names
from labkit.models.headers import Tensor


def names(*known: str, shape: tuple[int, ...] = (8, 8)) -> Names:
    return Names({name: Tensor(name, "BF16", shape, Path("model.safetensors"), 0, 128) for name in known})


@pytest.mark.parametrize(
    ("asked", "stored"),
    [
        ("model.language_model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.q_proj.weight"),
        ("model.layers.0.self_attn.q_proj.weight", "model.language_model.layers.0.self_attn.q_proj.weight"),
        ("model.language_model.layers.0.mlp.up_proj.weight", "language_model.model.layers.0.mlp.up_proj.weight"),
        ("model.visual.blocks.0.attn.qkv.weight", "visual.blocks.0.attn.qkv.weight"),
        ("visual.blocks.0.attn.qkv.weight", "model.visual.blocks.0.attn.qkv.weight"),
        ("model.vision_tower.encoder.layers.0.fc1.weight", "vision_tower.vision_model.encoder.layers.0.fc1.weight"),
        ("model.multi_modal_projector.linear_1.weight", "multi_modal_projector.linear_1.weight"),
        ("lm_head.weight", "language_model.lm_head.weight"),
        ("transformer.h.0.attn.c_attn.weight", "h.0.attn.c_attn.weight"),
    ],
)
def test_the_same_module_by_another_name(asked: str, stored: str) -> None:
    found = names(stored, "something.else.weight")
    tensor = found.find(asked)
    assert tensor is not None and tensor.name == stored


def test_a_name_that_would_mean_two_tensors_means_none() -> None:
    found = names("model.layers.0.q_proj.weight", "language_model.layers.0.q_proj.weight")
    assert found.find("transformer.llm.layers.0.q_proj.weight") is None
    assert found.find("model.layers.0.q_proj.weight") is not None


@pytest.mark.parametrize(
    ("asked", "shape", "what", "breaks"),
    [
        ("backbone.layers.0.attn.q_proj.weight", (8, 8), "other names in the base", "shapes agree"),
        ("backbone.layers.0.attn.q_proj.weight", (8, 16), "other shapes", "another model"),
        ("model.layers.5.attn.q_proj.weight", (8, 8), "it has 2", "a deeper one"),
        ("model.layers.0.attn.c_attn.weight", (8, 8), "are not in the base", "no modules of these names"),
        ("score.weight", (1, 8), "are not in the base", "no modules of these names"),
    ],
)
def test_another_model_is_said_only_where_numbers_say_so(asked: str, shape: tuple[int, ...], what: str, breaks: str) -> None:
    found = names("model.layers.0.attn.q_proj.weight", "model.layers.1.attn.q_proj.weight")
    assert found.find(asked) is None
    said = found.why_not(asked, (shape, shape[::-1]))
    assert (
        what in said[0] and breaks in said[1] and ("another model" in " ".join(said)) == ("another model" in breaks or "deeper" in breaks)
    )
