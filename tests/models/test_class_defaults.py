"""What a config leaves out, filled in as transformers' config classes do."""

from __future__ import annotations

from typing import Any

import pytest

from labkit.models import class_defaults

LLAMA_2023 = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 512, "rope_scaling": None}
LLAMA_NOW = {
    **{name: value for name, value in LLAMA_2023.items() if name != "rope_scaling"},
    **{"num_key_value_heads": 4, "head_dim": 16, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
}


@pytest.mark.parametrize(
    ("config", "tied"),
    [
        ({"model_type": "gemma2"}, True),
        ({"model_type": "gpt2"}, True),
        ({"model_type": "qwen3"}, False),
        ({"model_type": "qwen3", "tie_word_embeddings": True}, True),
        ({"model_type": "gemma", "tie_word_embeddings": False}, False),
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}, True),
        ({"model_type": "qwen2_vl", "text_config": {"tie_word_embeddings": True}}, True),
        ({"model_type": "of_its_own"}, None),
    ],
)
def test_tied_embeddings(config: dict[str, Any], tied: bool | None) -> None:
    assert class_defaults.tied(config) is tied


@pytest.mark.parametrize("name", ["num_key_value_heads", "head_dim", "max_position_embeddings", "hidden_size"])
def test_an_old_config_and_a_new_one_are_of_one_size(name: str) -> None:
    assert class_defaults.size(LLAMA_2023, name) == class_defaults.size(LLAMA_NOW, name)


def test_older_words_for_the_same_sizes() -> None:
    config = {"model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 128}
    assert [class_defaults.size(config, name) for name in ("hidden_size", "num_hidden_layers", "head_dim")] == [64, 2, 16]


def test_a_class_has_a_head_dim_of_its_own() -> None:
    assert class_defaults.size({"model_type": "gemma", "hidden_size": 3072, "num_attention_heads": 16}, "head_dim") == 256


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (LLAMA_2023, LLAMA_NOW),
        (
            {"model_type": "qwen2_vl", "rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}},
            {"model_type": "qwen2_vl", "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}},
        ),
        (
            {"model_type": "qwen3", "max_position_embeddings": 64, "rope_theta": 5, "rope_scaling": {"type": "yarn", "factor": 2.0}},
            {
                "model_type": "qwen3",
                "max_position_embeddings": 64,
                "rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 5, "original_max_position_embeddings": 64},
            },
        ),
        (
            {"model_type": "gemma3_text", "rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": None},
            {
                "model_type": "gemma3_text",
                "rope_parameters": {
                    "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                },
            },
        ),
        ({"model_type": "mixtral"}, {"model_type": "mixtral", "rope_theta": 1e6}),
    ],
)
def test_the_same_positions_in_two_spellings(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert class_defaults.rope(old) == class_defaults.rope(new)


def test_other_positions_stay_other() -> None:
    assert class_defaults.rope(LLAMA_2023) != class_defaults.rope({**LLAMA_2023, "rope_theta": 500000.0})
