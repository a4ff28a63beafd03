"""Which GPUs a server gets: those that are asked for, or as many of the visible ones as it splits its model over.

Covers: the choice, the environment that makes the engine keep to it, refusing a GPU that another server of the kit uses. Does not
cover: whether the model fits, processes outside the kit, several machines. Used by notebooks 03, 04 and 06 through `serve`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ..common.errors import GpuInUse, SettingError
from ..engines.engine import Engine
from ..engines.flags import flag_number, split_words
from ..machine import gpu
from ..machine.nvml import MIG
from .held_memory import sharers
from .registry import Record

ORDER = "CUDA_DEVICE_ORDER"
FIRST, STEP, SHARED_ATTENTION = "--base-gpu-id", "--gpu-id-step", "--enable-dp-attention"
"""SGLang's flags; vLLM has none of them."""


@dataclass(frozen=True)
class Placement:
    """A server's GPUs, [] without one, and what its engine's environment needs to keep to them."""

    devices: list[gpu.Device]
    environment: dict[str, str]

    @property
    def gpus(self) -> list[str]:
        """Their UUIDs."""
        return [device.uuid for device in self.devices]


def place(engine: Engine, argv: Sequence[str], device: str, gpus: int | str | Sequence[int | str] | None) -> Placement:
    """The GPUs for the command line `argv`: `gpus` by index or UUID, else as many of the visible ones as the flags ask for.

    Raises `SettingError` for GPUs that are not there, and for any on a machine that serves without.
    """
    if device != "gpu":
        if gpus is not None:
            raise SettingError(f"gpus is {gpus!r}, and this machine serves without a GPU.", "Leave gpus out.")
        return Placement([], {})
    there = gpu.select(gpus) if gpus is not None else gpu.visible()
    named = gpus is not None or any(mark in os.environ.get(gpu.VISIBLE, "") for mark in ("GPU-", MIG))
    environment = {gpu.VISIBLE: ",".join(map(_spelt, there))} if named and there else {}
    chosen = _taken(engine, argv, there) if gpus is None or flag_number(argv, FIRST) else there
    if len(gpu.devices()) > 1 and (gpus is not None or not os.environ.get(ORDER)):
        environment[ORDER] = "PCI_BUS_ID"  # else CUDA counts the fastest card first, and index 1 is another one here and there
    return Placement(chosen, environment)


def _spelt(device: gpu.Device) -> str:
    """A number wherever one will do: vLLM 0.19.1 reads nothing else. CUDA takes a card in MIG mode for its first slice."""
    first = next((part.uuid for part in gpu.everything() if part.parent and part.parent == device.parent), "")
    return str(device.index) if device.uuid == first else device.cuda_name


def _taken(engine: Engine, argv: Sequence[str], there: Sequence[gpu.Device]) -> list[gpu.Device]:
    """Those that the engine will use of the ones it sees: as many as its flags ask for, from the first that they name on."""
    first, step = flag_number(argv, FIRST) or 0, flag_number(argv, STEP) or 1
    chosen = list(there[first :: max(step, 1)][: _size(engine, argv)])
    if not chosen and there:
        count = f"{len(there)} GPU{'s' * (len(there) > 1)}"
        raise SettingError(f"{FIRST} {first}: the server sees {count}, counted from 0.", "Leave it out: gpus= chooses.")
    return chosen


def require_unused(record: Record) -> None:
    """Raise `GpuInUse`, with their names, if other servers of the kit use a GPU of `record`."""
    shared = sharers(record)
    if not shared:
        return
    names = sorted({other.name for others in shared.values() for other in others})
    used = [f"GPU {device.cuda_name} ({device.name})" for device in gpu.find(list(shared))]
    size = len(record.gpus)
    free = [device.cuda_name for device in gpu.visible() if not sharers(_alone(record, device.uuid))][:size]
    other = f'Free: gpus="{",".join(free)}" (./lab up --gpus {",".join(free)}). ' if len(free) == size else ""
    raise GpuInUse(
        f"{', '.join(used)} is used by {', '.join(names)}.",
        f"{other}./lab down {names[0]} stops that server. Two small models may share a GPU: share_gpu=True (./lab up --share-gpu), "
        "each with a gpu_memory_utilization (SGLang: mem_fraction_static) of less than a half.",
    )


def _alone(record: Record, uuid: str) -> Record:
    """`record` as if it had that one GPU."""
    return Record(**{**vars(record), "gpus": [uuid], "baseline": []})


def _size(engine: Engine, argv: Sequence[str]) -> int:
    """GPUs that the flags ask for: tensor x pipeline x data parallel."""
    size, words = 1, split_words(argv)
    for spellings in engine.parallel:
        if SHARED_ATTENTION in words and "--dp-size" in spellings:
            continue  # its data parallel groups share out the GPUs of the tensor parallel one
        size *= next((number for flag in spellings if (number := flag_number(argv, flag))), 1)
    return size
