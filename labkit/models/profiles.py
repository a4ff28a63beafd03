"""The course models: what each is called on the hubs, its shape, size, licence, and the least GPU it needs.

The data is `profiles.toml`; this module reads it and picks one. Used by every notebook (parameter `profile`).
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from ..common.amounts import GIB
from ..common.errors import ProfileError
from ..common.settings import Settings, settings

TABLE = Path(__file__).with_name("profiles.toml")
LEAST_BFLOAT16 = (8, 0)
"""Compute capability of the first cards with bfloat16 (Ampere); both engines say so."""
BYTES_OF_DTYPE = {"bfloat16": 2, "float16": 2, "float32": 4, "fp8": 1}


@dataclass(frozen=True)
class Shape:
    """The numbers of a config.json that decide memory: layer count, widths in elements, heads, vocabulary.

    `tied`: the embedding is also the output head, and is counted once.
    """

    architecture: str
    parameters: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool = False

    def kv_bytes_per_token(self, dtype: str = "bfloat16") -> int:
        """Bytes of KV cache one token takes: 2 (K and V) x layers x KV heads x head size x bytes of `dtype`."""
        return 2 * self.layers * self.kv_heads * self.head_dim * BYTES_OF_DTYPE[dtype]


@dataclass(frozen=True)
class Profile:
    """One course model. `bytes` is the whole folder on the hub, `context` the native one in tokens."""

    name: str
    title: str
    weights: str
    modelscope: str
    huggingface: str
    licence: str
    bytes: int
    context: int
    max_model_len: int
    dtype: str
    reasoning_parser: str
    chat_template: str
    least_gpu_gib: float
    shape: Shape

    @property
    def local(self) -> bool:
        """Whether this kit makes the folder itself instead of downloading it."""
        return self.weights != "hub"

    def folder(self, chosen: Settings | None = None) -> Path:
        """Where the model lies on this machine; by default as this process's settings say."""
        return (chosen or settings()).models / self.name

    @property
    def served_name(self) -> str:
        """What clients write as `model=`: the last part of the hub's id."""
        return self.modelscope.split("/")[-1]


@cache
def profiles() -> dict[str, Profile]:
    """All course models by name, in the order of profiles.toml (smallest GPU first)."""
    with TABLE.open("rb") as stream:
        table = tomllib.load(stream)
    return {name: Profile(name=name, shape=Shape(**row.pop("shape")), **row) for name, row in table.items()}


def profile(name: str = "auto", *, gpu_gib: float | None = None) -> Profile:
    """The course model called `name`; "auto" is LABKIT_PROFILE or else the largest real model that this GPU holds.

    `gpu_gib` overrides the memory found (GiB of the largest GPU or MIG slice, 0 without one). "auto" is float16 where the GPU has no
    bfloat16. Raises `ProfileError` for a name that is not in profiles.toml, and for "auto" where there is a GPU whose memory cannot
    be known: a driver that fails is not "no GPU".
    """
    known = profiles()
    if name == "auto":
        name = settings().profile
    if name == "auto":
        return _for_this_machine(known) if gpu_gib is None else known[_largest_fitting(known, gpu_gib)]
    if name not in known:
        raise ProfileError(f"There is no model profile {name!r}.", f"Use one of: auto, {', '.join(known)}.")
    return known[name]


def _largest_fitting(known: dict[str, Profile], gpu_gib: float) -> str:
    fitting = [p for p in known.values() if p.weights != "dummy" and p.least_gpu_gib <= gpu_gib]
    return max(fitting, key=lambda p: p.least_gpu_gib).name


def _for_this_machine(known: dict[str, Profile]) -> Profile:
    from ..machine import gpu

    wrong = gpu.problem() if os.environ.get("LABKIT_DEVICE") != "cpu" else None
    if wrong:
        raise ProfileError(*wrong)
    there = gpu.visible() if os.environ.get("LABKIT_DEVICE") != "cpu" else []
    if there and not any(device.memory_call for device in there):
        raise ProfileError(
            f"The driver does not tell how much memory {there[0].name} has, so no profile can be chosen by it.",
            f"Say which one: profile(<name>), or export LABKIT_PROFILE=<name>: {', '.join(known)}.",
        )
    chosen = known[_largest_fitting(known, max((device.total_bytes / GIB for device in there), default=0.0))]
    without = any(device.capability and device.capability < LEAST_BFLOAT16 for device in there)
    return replace(chosen, dtype="float16") if without and chosen.dtype == "bfloat16" else chosen
