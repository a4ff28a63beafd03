"""What a config.json means where it leaves a setting out: transformers' config classes fill in defaults of their own.

Configs of 2023 name neither head_dim nor rope_theta, Gemma's and GPT-2's do not say that embedding and head are one tensor, and
today's transformers writes all of that out: the same model, two texts. Here both get one form.

Covers: tied embeddings, sizes, RoPE of transformers 4's and 5's spelling, layer types with a RoPE of their own (Gemma 3).
Does not cover: what lies in the weights (`headers`), model types that bring their own code (what they leave out stays unknown).
The defaults are data, class_defaults.toml, which names its source.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_suffix(".toml")
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
OTHER_NAMES = {
    "hidden_size": ("n_embd", "d_model", "dim"),
    "intermediate_size": ("n_inner", "ffn_dim", "ffn_hidden_size"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads"),
    "num_key_value_heads": ("num_kv_heads", "multi_query_group_num"),
    "max_position_embeddings": ("n_positions", "seq_length", "max_seq_len"),
}
"""Older model types' words for the same sizes (transformers' `attribute_map`s)."""
ROPE_DEFAULTS: dict[str, Any] = {"partial_rotary_factor": 1.0, "beta_fast": 32, "beta_slow": 1}
"""What transformers' RoPE functions take where a setting is left out (5.19.0, `modeling_rope_utils.py`)."""


@cache
def _table() -> Mapping[str, Mapping[str, Any]]:
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a config that has several."""
    for name in ("text_config", "llm_config", "language_config"):
        part = config.get(name)
        if isinstance(part, dict):
            return part
    return config


def tied(config: Mapping[str, Any]) -> bool | None:
    """Whether input embedding and output head are one tensor, as the config or its class says; None where neither does.

    A config of several parts may say it twice; older transformers went by the inner one, newer by the outer: one yes is a yes.
    """
    parts = (config, text_part(config))
    said = [part["tie_word_embeddings"] for part in parts if part.get("tie_word_embeddings") is not None]
    defaults = [row["tied"] for part in parts if "tied" in (row := _row(part))]
    return any(said) if said else any(defaults) if defaults else None


def size(config: Mapping[str, Any], name: str) -> Any:
    """One of SIZES or another number of the language model; None where neither config nor class says it."""
    part = text_part(config)
    value = next((part[word] for word in (name, *OTHER_NAMES.get(name, ())) if part.get(word) is not None), None)
    if value is None:
        value = _row(part).get(name)
    if value is None and name == "num_key_value_heads":
        return size(config, "num_attention_heads")
    if value is None and name == "head_dim":
        hidden, heads = size(config, "hidden_size"), size(config, "num_attention_heads")
        return hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads else None
    return value


def rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """The RoPE settings in one form, flat, defaults filled in; those of sliding layers with "sliding " before their names."""
    part = text_part(config)
    rows: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        rows |= {key: value for key, value in _mapping(part.get(name)).items() if value is not None}
    layers = {name: rows.pop(name) for name in list(rows) if isinstance(rows[name], dict)}
    full, sliding = (_mapping(layers.get(name)) for name in ("full_attention", "sliding_attention"))
    local = sliding.get("rope_theta") or part.get("rope_local_base_freq") or _row(part).get("rope_local_base_freq")
    found = _one_form(part, {**rows, **full})
    return found | ({"sliding rope_theta": local} if local else {})


def _one_form(part: Mapping[str, Any], rows: dict[str, Any]) -> dict[str, Any]:
    older = rows.pop("type", None)
    kind = rows.pop("rope_type", None) or older or "default"
    theta = rows.pop("rope_theta", None) or next(
        (part[name] for name in ("rope_theta", "rotary_emb_base", "rotary_base") if part.get(name)), None
    )
    longest = size(part, "max_position_embeddings")
    found = {**rows, "rope_theta": theta or _row(part).get("rope_theta"), "max_position_embeddings": longest}
    found["rope_type"] = {"su": "longrope", "mrope": "default"}.get(kind, kind)
    found.setdefault(
        "partial_rotary_factor", part.get("partial_rotary_factor") or part.get("rotary_pct") or _row(part).get("partial_rotary_factor")
    )
    found.setdefault("original_max_position_embeddings", part.get("original_max_position_embeddings"))
    for name, value in {**ROPE_DEFAULTS, "original_max_position_embeddings": longest}.items():
        if found.get(name) == value:
            del found[name]
    return {name: value for name, value in found.items() if value is not None}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _row(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return _table().get(str(config.get("model_type") or ""), {})
