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
from ..engines.flags import flag_number
from ..machine import gpu
from .held_memory import sharers
from .registry import Record

ORDER = "CUDA_DEVICE_ORDER"


@dataclass(frozen=True)
class Placement:
    """The UUIDs of a server's GPUs, [] without one, and what its engine's environment needs to keep to them."""

    gpus: list[str]
    environment: dict[str, str]


def place(engine: Engine, argv: Sequence[str], device: str, gpus: int | str | Sequence[int | str] | None) -> Placement:
    """The GPUs for the command line `argv`: `gpus` by index or UUID, else as many of the visible ones as the flags ask for.

    Raises `SettingError` for GPUs that are not there, and for any on a machine that serves without.
    """
    if device != "gpu":
        if gpus is not None:
            raise SettingError(f"gpus is {gpus!r}, and this machine serves without a GPU.", "Leave gpus out.")
        return Placement([], {})
    chosen = gpu.select(gpus) if gpus is not None else gpu.visible()[: _size(engine, argv)]
    environment = {gpu.VISIBLE: ",".join(each.cuda_name for each in chosen)} if gpus is not None else {}
    if len(gpu.devices()) > 1 and (gpus is not None or not os.environ.get(ORDER)):
        environment[ORDER] = "PCI_BUS_ID"  # else CUDA counts the fastest card first, and index 1 is another one here and there
    return Placement([each.uuid for each in chosen], environment)


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
    size = 1
    for spellings in engine.parallel:
        size *= next((number for flag in spellings if (number := flag_number(argv, flag))), 1)
    return size
