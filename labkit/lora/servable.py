"""Whether an engine can serve an adapter beside its base, unmerged, and why not: what it refuses, and what it would leave out.

An engine that refuses says so. One that reads only part of adapter_config.json answers, and answers wrongly; that is not servable either.

Sources: vLLM 0.32.0 (its peft_helper, lora_model and LoRAConfig) and SGLang 0.5.17 and 0.5.19 (lora_config, LoRAAdapter, lora_manager
in its srt/lora), read; notebook 06 serves plain adapters with both.
Covers: what adapter_config.json and the keys of the file decide. Does not cover: which architectures an engine has LoRA for at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..models.adapter import PLAIN_INITS, Adapter
from ..models.adapter_keys import take_apart
from .findings import Serving

VLLM, SGLANG = "vllm", "sglang"
TITLES = {VLLM: "vLLM 0.32.0", SGLANG: "SGLang 0.5.19"}
"""The versions that were read."""
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that --max-lora-rank takes; 16 is its default."""
VLLM_DEFAULT_RANK = 16
VLLM_SAVED = ("classifier", "score")
TOWERS = {
    "visual",
    "vision_tower",
    "vision_model",
    "vision_encoder",
    "audio_tower",
    "multi_modal_projector",
    "mm_projector",
    "embed_vision",
}
ENDS = ("embed_tokens", "lm_head", "unembed_tokens")
NUMBERED = re.compile(r"\.layers\.\d+\.")
NEEDED = ("r", "lora_alpha", "target_modules")
UNREAD = "is not read: it would answer without it"
VLLM_SETTINGS = {
    "use_dora": "DoRA is refused",
    "lora_bias": "lora_bias is refused",
    "alora_invocation_tokens": "aLoRA is refused",
    "layer_replication": "layer_replication is refused",
    "use_bdlora": "BD-LoRA is refused",
    "use_qalora": "QALoRA is refused",
    "trainable_token_indices": "trained rows of the embedding (trainable_token_indices) are refused",
    "arrow_config": f"arrow_config {UNREAD}",
    "kasa_config": f"kasa_config {UNREAD}",
    "velora_config": f"velora_config {UNREAD}",
    "megatron_config": f"megatron_config {UNREAD}",
}
SGLANG_SETTINGS = {
    "use_dora": "DoRA is refused",
    "use_rslora": "use_rslora is not read: it would scale by alpha / rank",
    "rank_pattern": "rank_pattern is not read: one rank and one scale for all modules",
    "alpha_pattern": "alpha_pattern is not read: one scale for all modules",
    **{
        name: f"{name} {UNREAD}"
        for name in (
            *("lora_bias", "alora_invocation_tokens", "layer_replication", "use_bdlora", "use_qalora", "trainable_token_indices"),
            *("modules_to_save", "arrow_config", "kasa_config", "velora_config", "megatron_config", "target_parameters"),
        )
    },
}


def serving(adapter: Adapter, against: tuple[str, ...] = ()) -> tuple[Serving, ...]:
    """The verdict of each engine. `against` are reasons found elsewhere that hold for all of them."""
    return tuple(
        Serving(engine, TITLES[engine], (*rule(adapter), *against), rank(engine, adapter), _unsure(engine, adapter))
        for engine, rule in RULES.items()
    )


def rank(engine: str, adapter: Adapter) -> int:
    """The smallest --max-lora-rank that `engine` takes for `adapter`."""
    return next((allowed for allowed in VLLM_RANKS if allowed >= adapter.highest_rank), adapter.highest_rank)


def _vllm(adapter: Adapter) -> Iterator[str]:
    config = adapter.config
    yield from _missing(config)
    others = [name for name in adapter.saved_modules if name not in VLLM_SAVED]
    if others:
        yield f"modules_to_save {', '.join(others)} is refused"
    yield from (why for name, why in VLLM_SETTINGS.items() if config.get(name))
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in PLAIN_INITS:
        yield f'init_lora_weights "{init}" is refused'
    if config.get("bias", "none") != "none":
        yield f"bias {config['bias']} is refused"
    if adapter.peft_type != "LORA" and not list(_missing(config)):
        yield f"peft_type is not read: it would take {adapter.peft_type} for LoRA"
    if tower := next((module for module, tower in _outside(adapter) if tower), None):
        yield f"{tower} and what else sees or hears is left out, unless the server has --enable-tower-connector-lora"
    if odd := _odd_key(adapter):
        yield f"keys such as {odd} are refused, or left out without a word"
    if adapter.highest_rank > VLLM_RANKS[-1]:
        yield f"rank {adapter.highest_rank} is above {VLLM_RANKS[-1]}, the most that --max-lora-rank takes"


def _sglang(adapter: Adapter) -> Iterator[str]:
    config = adapter.config
    yield from _missing(config)
    if adapter.peft_type != "LORA":
        yield f"{adapter.peft_type} is refused"
    targets = config.get("target_modules")
    if isinstance(targets, str) and targets not in ("all", "all-linear"):
        yield "target_modules as a regular expression is refused"
    yield from (why for name, why in SGLANG_SETTINGS.items() if config.get(name))
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in PLAIN_INITS:
        yield f'init_lora_weights "{init}" is not read: it would add to a base that training had changed'
    if config.get("bias", "none") != "none":
        yield f"bias {config['bias']} {UNREAD}"
    if other := next((module for module, tower in _outside(adapter) if tower or module.rpartition(".")[2] not in ENDS), None):
        yield f"{other} is left out: it is in none of the language model's layers, or these are not called layers"


def _outside(adapter: Adapter) -> Iterator[tuple[str, bool]]:
    """(module, whether it belongs to what sees or hears) of those beside the language model's numbered layers."""
    for name in adapter.tensors:
        key = take_apart(name)
        if key.part and (tower := bool(TOWERS & set(key.module.split(".")))) | (not NUMBERED.search(f".{key.module}.")):
            yield key.module, tower


RULES: Mapping[str, Callable[[Adapter], Iterator[str]]] = {VLLM: _vllm, SGLANG: _sglang}


def _missing(config: Mapping[str, Any]) -> Iterator[str]:
    absent = [name for name in NEEDED if config.get(name) is None]
    if absent:
        yield f"adapter_config.json lacks {', '.join(absent)}"


def _odd_key(adapter: Adapter) -> str:
    """A key with a wrapper's or an adapter's name in it, or ""."""
    keys = ((name, take_apart(name)) for name in adapter.tensors)
    return next((name for name, key in keys if key.part and (key.wrappers or key.adapter)), "")


def _unsure(engine: str, adapter: Adapter) -> str:
    if engine == VLLM and adapter.config.get("target_parameters"):
        return "target_parameters only for models whose experts vLLM keeps fused (not tried)"
    if engine == SGLANG and _odd_key(adapter):
        return "what it makes of the names of wrappers in the keys was not tried"
    if adapter.pickled:
        return "its keys were not read, they lie in a pickle"
    return ""
