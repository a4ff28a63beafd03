"""What is wrong with the numbers of an adapter: broken, all zero, none at all; or that they were not read.

Covers: the adapter's own file. Does not cover: pickles, which nothing here opens; how numbers are read (`models.tensor_numbers`).
"""

from __future__ import annotations

from collections.abc import Iterator

from ..models.adapter import Adapter
from ..models.adapter_keys import take_apart
from ..models.tensor_numbers import Numbers
from .findings import LOOK, Finding


def findings(adapter: Adapter) -> Iterator[Finding]:
    """What is wrong with the adapter's numbers, or that they were not read."""
    if adapter.pickled:
        yield Finding(
            "numbers not read",
            "the adapter's numbers were not looked at: they lie in a pickle, which only a worker opens",
            adapter.weights.name,
            "NaN, zeros and empty tensors show only when it is merged.",
            "Have it saved as adapter_model.safetensors, or go on: a merge looks.",
            LOOK,
        )
        return
    found = Numbers.read(adapter.tensors)
    if found.empty:
        yield Finding(
            "empty tensors",
            f"{len(found.empty)} of {len(adapter.tensors)} tensors hold no numbers: their shapes have a 0, first {found.empty[0]}",
            adapter.weights.name,
            "So DeepSpeed's ZeRO-3 leaves them where they are saved before their parts were gathered; nothing of the training is in them.",
            "Save again from the training: stage3_gather_16bit_weights_on_model_save=true, or get_state_dict of accelerate, "
            "or zero_to_fp32.py on its checkpoint.",
            computable=False,
        )
    if found.broken:
        yield Finding(
            "numbers",
            f"NaN or infinity in {len(found.broken)} of {len(adapter.tensors)} tensors, first {found.broken[0]}",
            adapter.weights.name,
            "The training broke off into no numbers; served or merged, answers are noise or an error.",
            "Train again with a lower learning rate, or take an earlier checkpoint.",
            computable=False,
        )
    yield from _untrained(adapter, found)
    if found.unread:
        types = ", ".join(sorted({adapter.tensors[name].dtype for name in found.unread}))
        what = f"the numbers of {len(found.unread)} tensors were not looked at: they are of type {types}"
        yield Finding(
            "numbers not read", what, adapter.weights.name, "NaN and zeros in them do not show.", "Save them in fp32 or bf16.", LOOK
        )


def _untrained(adapter: Adapter, found: Numbers) -> Iterator[Finding]:
    """A pair with one half all zero adds nothing; DoRA's magnitude may do so all the same."""
    halves: dict[str, dict[str, str]] = {}
    others = 0
    for name in adapter.tensors:
        key = take_apart(name)
        if key.part in ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B") and not key.bias:
            halves.setdefault(key.module, {})[key.part] = name
        elif key.copy != "original_module":
            others += 1
    idle = [module for module, parts in halves.items() if found.zero & set(parts.values())]
    if not idle:
        return
    whole = len(idle) == len(halves)
    if whole and not others:
        yield Finding(
            "untrained",
            f"in all {len(idle)} modules lora_A or lora_B is zero",
            adapter.weights.name,
            "An adapter begins so: served or merged, it changes nothing, without an error.",
            "Take a checkpoint from after some steps of training.",
            computable=False,
        )
    else:
        what = f"in {len(idle)} of {len(halves)} modules lora_A or lora_B is zero, first {idle[0]}"
        breaks = (
            "These modules were not trained and change nothing; the others do."
            if not whole
            else "Only what was trained whole changes anything."
        )
        yield Finding("untrained", what, adapter.weights.name, breaks, "Nothing, if you know why (experts that no token reached).", LOOK)
