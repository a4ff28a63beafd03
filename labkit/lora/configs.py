"""The config.json that training put beside an adapter, held against the base's: is it the same model, with the same positions?

Both are read as transformers reads them (`models.class_defaults`): what one leaves out and the other writes out is no difference.

Covers: sizes, type of model, RoPE, the name of the base. Does not cover: shapes of tensors (`pairing`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..models import class_defaults
from ..models.adapter import Adapter
from ..models.class_defaults import SIZES
from ..models.headers import Weights
from .findings import LOOK, Finding

LENGTH_IS_A_LIMIT = ("default", "linear")
"""Kinds of RoPE whose angles do not depend on max_position_embeddings."""


def findings(base: Weights, adapter: Adapter, trained: Mapping[str, Any], names: Iterable[str]) -> Iterator[Finding]:
    """`trained` is the config beside the adapter, {} where there is none; `names` are those that the base goes by."""
    if trained:
        yield from _same_model(base.config, trained)
        yield from _same_rope(base.config, trained)
    yield from _same_name(base, adapter, {_last(name) for name in names})


def _same_model(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Finding]:
    pairs = {name: (class_defaults.size(theirs, name), class_defaults.size(ours, name)) for name in (*SIZES, "vocab_size")}
    pairs["model_type"] = _types(ours, theirs)
    differ = [
        f"{name} {trained} against {base}" for name, (trained, base) in pairs.items() if trained != base and None not in (trained, base)
    ]
    if differ:
        breaks, fix = "It was trained on another model.", "Name the base that the adapter was trained on."
        if all(text.startswith("vocab_size") for text in differ):
            breaks, fix = "Tokens were added or taken away in training.", "Use the base with the vocabulary of the training."
        yield Finding("base mismatch", f"the model it was trained on differs: {'; '.join(differ)}", "config.json of both", breaks, fix)


def _types(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[Any, Any]:
    """The model types, (theirs, ours); equal where one is the language model in the other (qwen2_5_vl, qwen2_5_vl_text)."""
    pair = theirs.get("model_type"), ours.get("model_type")
    inner = {class_defaults.text_part(config).get("model_type") for config in (ours, theirs)}
    return (None, None) if set(pair) & inner and None not in pair and len(inner) == 1 else pair


def _same_rope(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Finding]:
    base, trained = class_defaults.rope(ours), class_defaults.rope(theirs)
    names = sorted(base | trained)
    # what a class does not name either stays unknown, and unknown is no difference
    unknown = {"rope_theta", "max_position_embeddings", "sliding rope_theta"}
    differ = [
        f"{name} {trained.get(name)} against {base.get(name)}"
        for name in names
        if base.get(name) != trained.get(name) and not (name in unknown and None in (base.get(name), trained.get(name)))
    ]
    if [text.partition(" ")[0] for text in differ] == ["max_position_embeddings"] and base["rope_type"] in LENGTH_IS_A_LIMIT:
        what, fix = f"the longest prompt differs: {differ[0]}", "Nothing, unless longer prompts than either are to be answered."
        yield Finding("rope", what, "config.json of both", "Engines cut off at the base's; positions are the same.", fix, LOOK)
    elif differ:
        yield Finding(
            "rope",
            f"RoPE differs: {'; '.join(differ)}",
            "config.json of both",
            "Positions are turned by other angles than in training: long prompts degrade first.",
            "Use the base whose config.json has the RoPE of the training.",
        )


def _same_name(base: Weights, adapter: Adapter, names: set[str]) -> Iterator[Finding]:
    where, name = adapter.config_place, adapter.base_name
    if not name:
        what, fix = "the adapter does not say which base it was trained on", "Put base_model_name_or_path into its adapter_config.json."
        yield Finding("base name", what, where, "Only shapes can be held against the base, and kin of one size share them.", fix, LOOK)
    elif _last(name) not in names and Path(name).expanduser().absolute() != base.folder:
        what = f"the adapter names {name} as its base"
        fix = f"If {base.folder.name} is that model, nothing; else name the right folder."
        breaks = "On another model of the same shape it merges without an error, and the result is worse."
        yield Finding("base name", what, where, breaks, fix, LOOK)


def _last(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.rstrip("/").rpartition("/")[2].lower())
