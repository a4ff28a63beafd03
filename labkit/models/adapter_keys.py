"""The keys of an adapter's file, as PEFT, wrappers and older versions write them, taken apart: module, part, adapter's name.

torch.compile, DDP, FSDP, activation checkpointing and trainers wrap a model, and a state dict that was saved through a wrapper has its
name in the keys. PEFT leaves such keys out when it loads; they say without a doubt which module they are about, so here they go.

Covers: names. Does not cover: which tensor of a base a module is (`lora.naming`). Used by `lora.pairing`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PREFIX = "base_model.model."
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "_fpw_module", "_dp_wrapped_module")
"""Segments that no model has of itself: torch.compile, FSDP, checkpoint_wrapper, Lightning, FairScale."""
LEADING = ("module",)
"""Segments that are a wrapper's (DDP, DeepSpeed) only where a name begins with them."""
PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?:\.(?P<adapter>(?!weight$|bias$)[^.]+))?(?:\.(?P<kind>weight|bias))?"
)
SAVED = re.compile(r"(?P<module>.+)\.(?P<copy>modules_to_save|original_module)\.(?P<rest>.+)")


@dataclass(frozen=True)
class Key:
    """One key: `module` and `part` ("lora_A") for a part of a pair; for anything else `module` is the whole name, `part` "".

    `copy` is "modules_to_save" or "original_module" where PEFT wrote a trained module's own copy and what was there before it.
    `wrappers` are the segments that were taken out, `adapter` the name of one among several adapters. `bare`: without PEFT's prefix.
    """

    module: str
    part: str = ""
    bias: bool = False
    copy: str = ""
    adapter: str = ""
    wrappers: tuple[str, ...] = ()
    bare: bool = False


def take_apart(key: str) -> Key:
    """What `key` is about."""
    name, wrappers = unwrapped(key)
    bare = PREFIX not in key
    if match := PART.fullmatch(name):
        return Key(match["module"], match["part"], match["kind"] == "bias", "", match["adapter"] or "", wrappers, bare)
    name = name.replace(".base_layer.", ".")
    if match := SAVED.fullmatch(name):
        rest = match["rest"]
        return Key(f"{match['module']}.{rest.removeprefix('default.')}", copy=match["copy"], wrappers=wrappers, bare=bare)
    return Key(name, wrappers=wrappers, bare=bare)


def unwrapped(key: str) -> tuple[str, tuple[str, ...]]:
    """(`key` without wrappers' names and without PEFT's prefix, the wrappers' names)."""
    segments = key.split(".")
    found = [segment for segment in segments if segment in WRAPPERS]
    name = ".".join(segment for segment in segments if segment not in WRAPPERS)
    before, prefix, after = f".{name}".rpartition(f".{PREFIX}")
    found += [segment for segment in before.split(".") if segment]
    name = after if prefix else name
    while name.partition(".")[0] in LEADING:
        first, _, name = name.partition(".")
        found.append(first)
    return name, tuple(dict.fromkeys(found))
