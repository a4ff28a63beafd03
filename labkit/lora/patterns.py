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

PUT_BY_PEFT = ("classifier", "score")
"""What PEFT puts into modules_to_save of every classifier by itself, whichever of the two the model has."""


def findings(base: Weights, adapter: Adapter, pairing: Pairing) -> Iterator[Finding]:
    """For an adapter whose tensors were read and whose settings a merge knows; nothing for others."""
    if adapter.pickled or adapter.refused() or any(0 in tensor.shape for tensor in adapter.tensors.values()):
        return
    where = adapter.config_place
    if not pairing.changes and not pairing.findings:
        breaks = "There is nothing to merge or to serve."
        fix = "Name the checkpoint that training wrote."
        yield Finding("empty", "the adapter holds no tensors", adapter.weights.name, breaks, fix, computable=False)
    zero = [change.module for change in pairing.changes if change.a is not None and change.scale == 0]
    if zero or adapter.config.get("lora_alpha") == 0:
        what = "lora_alpha is 0, so that the adapter's scale is 0"
        breaks = "Served or merged, it changes nothing, without an error."
        yield Finding("lora_alpha", what, where, breaks, FIXES["lora_alpha"], computable=False)
    trained = _trained(adapter)
    yield from _idle_targets(base, adapter, pairing, trained)
    yield from _idle_patterns(base, adapter, trained)
    yield from _without_tensors(base, adapter, trained)


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
