"""What adapter_config.json names and nothing answers to: targets, patterns, layers, whole modules; and targets without tensors.

PEFT leaves such entries out without a word, so that a scale, or a part of the training, is not what its author wrote.

Covers: config against the base's names and the file's. Does not cover: tensors against the base (`pairing`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..models.adapter import Adapter
from ..models.adapter_keys import take_apart
from ..models.headers import Weights
from .advice import FIXES
from .changes import Pairing
from .findings import BLOCKS, LOOK, Finding
from .naming import NUMBERED, Names

DEFAULT_ALPHA = 8
"""PEFT's, where adapter_config.json has no lora_alpha."""
SETTINGS_OF = "0.21.2"
SETTINGS = {
    *("alora_invocation_tokens", "alpha_pattern", "arrow_config", "auto_mapping", "base_model_name_or_path", "bias", "corda_config"),
    *("ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "kasa_config"),
    *("layer_replication", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_bias", "lora_dropout"),
    *("lora_ga_config", "megatron_config", "megatron_core", "modules_to_save", "monteclora_config", "peft_type", "peft_version"),
    *("qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules", "target_parameters", "task_type"),
    *("trainable_token_indices", "use_bdlora", "use_dora", "use_qalora", "use_rslora", "velora_config"),
}
"""Fields of its LoraConfig."""
PUT_BY_PEFT = ("classifier", "score")
"""What PEFT puts into modules_to_save of every classifier by itself, whichever of the two the model has."""


def findings(base: Weights, adapter: Adapter, pairing: Pairing) -> Iterator[Finding]:
    """For an adapter whose tensors were read and whose settings a merge knows; nothing for others."""
    if adapter.pickled or adapter.refused() or any(0 in tensor.shape for tensor in adapter.tensors.values()):
        return
    if not pairing.changes and not pairing.findings:
        breaks = "There is nothing to merge or to serve."
        fix = "Name the checkpoint that training wrote."
        yield Finding("empty", "the adapter holds no tensors", adapter.weights.name, breaks, fix, computable=False)
    yield from _scales(adapter, pairing)
    yield from _unknown(adapter)
    trained = _trained(adapter)
    yield from _idle_targets(base, adapter, pairing, trained)
    yield from _idle_patterns(base, adapter, trained)
    yield from _without_tensors(base, adapter, trained)


def _scales(adapter: Adapter, pairing: Pairing) -> Iterator[Finding]:
    """Scales of 0: of all modules, because nobody wrote lora_alpha down, or of some."""
    pairs = [change for change in pairing.changes if change.a is not None]
    zero = [change.module for change in pairs if change.scale == 0]
    alpha = adapter.config.get("lora_alpha")
    if not alpha and (zero or not pairs):
        what, breaks = "lora_alpha is 0, so that the adapter's scale is 0", "Served or merged, it changes nothing, without an error."
        if alpha is None:
            what, breaks = "lora_alpha is not written down", f"The scale of the training is not known; PEFT would take {DEFAULT_ALPHA}."
        yield Finding("lora_alpha", what, adapter.config_place, breaks, FIXES["lora_alpha"], computable=False)
    elif zero:
        whole = len(zero) == len(pairs)
        what = f"alpha_pattern gives {len(zero)} of {len(pairs)} modules a scale of 0, first {zero[0]}"
        breaks = "Served or merged, they change nothing." + ("" if whole else " The others do.")
        fix = "Put the alphas of the training there."
        yield Finding("lora_alpha", what, adapter.config_place, breaks, fix, BLOCKS if whole else LOOK, computable=not whole)


def _unknown(adapter: Adapter) -> Iterator[Finding]:
    """Settings that are set and that the PEFT whose rules these are does not know; PEFT leaves them out, with a warning."""
    said = adapter.config.get("peft_type")
    if said != adapter.peft_type:
        what = (
            f"peft_type is {said!r}; it is taken for {adapter.peft_type}" if said else "peft_type is not written down; it is taken for LORA"
        )
        fix = f'Put "peft_type": "{adapter.peft_type}" there if others are to read it.'
        yield Finding("peft_type", what, adapter.config_place, "PEFT does not load such a file.", fix, LOOK)
    names = sorted(name for name, value in adapter.config.items() if value and name not in SETTINGS)
    if names:
        what = f"settings are set that PEFT {SETTINGS_OF} does not know: {', '.join(names)}"
        breaks = "If one of them changes what the adapter computes, this merge and the engines do not know it."
        fix = "Look them up in the program that trained it; of no consequence: nothing."
        yield Finding("unknown settings", what, adapter.config_place, breaks, fix, LOOK)


def _trained(adapter: Adapter) -> set[str]:
    """Modules with tensors in the file, named as in the model that was trained."""
    keys = [take_apart(name) for name in adapter.tensors]
    return {key.module if key.part else key.module.rpartition(".")[0] for key in keys}


def _modules(base: Weights) -> list[str]:
    return [name.removesuffix(".weight") for name in base.tensors if name.endswith(".weight")]


def _idle_targets(base: Weights, adapter: Adapter, pairing: Pairing, trained: set[str]) -> Iterator[Finding]:
    idle = adapter.idle_targets([*_modules(base), *trained])
    if idle:
        severity = LOOK if pairing.changes else BLOCKS
        what, breaks = f"target modules match nothing: {', '.join(idle)}", "What was meant to be trained was not."
        yield Finding("target modules", what, adapter.config_place, breaks, FIXES["target modules"], severity, computable=False)


def _idle_patterns(base: Weights, adapter: Adapter, trained: set[str]) -> Iterator[Finding]:
    idle = adapter.idle_patterns(trained)
    numbers = {int(match["number"]) for name in (*base.tensors, *trained) if (match := NUMBERED.search(f"{name}."))}
    idle += [f"layers_to_transform {layer}" for layer in adapter.idle_layers(numbers)]
    idle += [f"exclude_modules {name}" for name in adapter.idle_excludes([*_modules(base), *trained])]
    saved = [name for name in adapter.saved_modules if not any(_means(name, module) for module in trained)]
    if adapter.saved_modules and set(adapter.saved_modules) <= set(PUT_BY_PEFT) and len(saved) < len(adapter.saved_modules):
        saved = []
    idle += [f"modules_to_save {name}" for name in saved]
    if idle:
        yield Finding(
            "idle patterns",
            f"settings match nothing: {', '.join(idle)}",
            adapter.config_place,
            "PEFT leaves them out without a word: rank, scale or training of what was meant is another.",
            "Compare them with the names of the modules, which begin without base_model.model.; correct slips as they were in training.",
            LOOK,
        )


def _means(name: str, module: str) -> bool:
    return re.match(rf"(^|.*\.){re.escape(name)}($|\..*)", module) is not None


def _without_tensors(base: Weights, adapter: Adapter, trained: set[str]) -> Iterator[Finding]:
    """Matrices of the base that the config means and the file has nothing for, of kinds that it has something for elsewhere."""
    names = Names(base.tensors)
    found = {tensor.name for module in trained if (tensor := names.find(f"{module}.weight")) is not None}
    kinds = {name.split(".")[-2] for name in found}
    lacking = [
        name
        for name, tensor in base.tensors.items()
        if name.endswith(".weight")
        and name not in found
        and len(tensor.shape) == 2
        and name.split(".")[-2] in kinds
        and ".experts." not in name
        and adapter.targets(name.removesuffix(".weight"))
    ]
    if lacking and found:
        yield Finding(
            "missing tensors",
            f"the config means {len(lacking)} more modules than the file has tensors for, first {lacking[0].removesuffix('.weight')}",
            adapter.weights.name,
            'A part of the adapter may be lost: PEFT says "missing adapter keys" and leaves these as they are in the base.',
            "Compare the file with the one that training wrote.",
            LOOK,
        )
