"""The GPUs of this machine as NVML tells of them, now: all of them, those that this process may use, those of a server.

Covers: what is there (`devices`), what CUDA_VISIBLE_DEVICES leaves of it (`visible`), a choice by index or UUID (`select`), bytes in
use (`memory_used`), why a GPU cannot be used (`problem`). Does not cover: which process holds memory on a GPU (in a
container NVML's process list is empty, and its pids are the host's), recording over time (`telemetry.sampler`).

A GPU is named by its index in NVML's order, which is that of the PCI bus and of nvidia-smi, and by its UUID; a MIG slice by its UUID
only. CUDA counts the fastest card first unless CUDA_DEVICE_ORDER=PCI_BUS_ID says otherwise: `serve` says so wherever there are two.
A card in MIG mode is no device of CUDA: its slices are, and one process sees one slice (NVIDIA, MIG user guide).

Memory is NVML's v2 call where the driver has it: what is allocated, without the driver's own reserve. The older v1 call counts that
reserve as used: an idle H200 then reports 0.6 GiB. `Device.memory_call` says which one it was.
Used by notebooks 01 and 03 to 06 through doctor, servers and the live view.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..common.errors import GpuUnusable, SettingError
from . import nvml as binding
from .nvml import MIG, ask, from_thousandths, load_nvml, memory_info, utilisation_of

VISIBLE = "CUDA_VISIBLE_DEVICES"
FORCED, KINDS = "LABKIT_DEVICE", ("cpu", "gpu")
OWN_MEMORY = ("v2", "v1")
HIDDEN_ON_PURPOSE = ("", "-1", "none", "void", "NoDevFiles")
"""What people write to hide every GPU; anything else that names none is a mistake."""


@dataclass(frozen=True)
class Device:
    """One GPU or MIG slice, now. Bytes, watts, percent, degrees Celsius; None where the card does not say.

    `index` is the card's in NVML's order, a slice has that of its card, whose UUID is then `parent`. `uuid` is made up from the place
    where the driver gives none. `memory_call` is "" where the memory cannot be read; both numbers are then 0.
    """

    index: int
    name: str
    uuid: str
    total_bytes: int
    used_bytes: int
    power_watts: float | None
    power_limit_watts: float | None
    utilisation_percent: float | None
    temperature: float | None
    driver: str
    memory_call: str = "v2"
    capability: tuple[int, int] | None = None
    parent: str = ""
    slices: int = 0
    """How many MIG slices a card is cut into; 0 of a whole card and of a slice."""

    @property
    def cuda_name(self) -> str:
        """What CUDA_VISIBLE_DEVICES calls it: the index of a card (not every engine reads a card's UUID), the UUID of a slice."""
        return self.uuid if self.parent else str(self.index)

    @property
    def memory_told(self) -> bool:
        """Whether the driver tells how much of its own memory is in use, so that a server's can be seen to come back."""
        return self.memory_call in OWN_MEMORY

    @property
    def capability_text(self) -> str:
        """ "8.6", or "unknown"."""
        return ".".join(map(str, self.capability)) if self.capability else "unknown"


def everything() -> list[Device]:
    """All cards that answer, in NVML's order, each followed by its MIG slices; [] without a GPU, or if NVML fails. Raises nothing."""
    nvml = load_nvml()
    if nvml is None:
        return []
    driver = driver_version()
    return [_device(nvml, uuid, index, handle, parent, driver) for uuid, index, handle, parent in _handles(nvml)]


def devices() -> list[Device]:
    """`everything` without the slices."""
    return [device for device in everything() if not device.parent]


def visible(environment: Mapping[str, str] | None = None) -> list[Device]:
    """The GPUs that CUDA_VISIBLE_DEVICES of `environment` (default: this process's) leaves, in its order; all of them without it.

    As CUDA reads it: an entry that names no GPU hides itself and all that follow, a GPU named twice hides all. A card in MIG mode
    stands for its first slice, and a process sees one slice only. Raises nothing.
    """
    named = (os.environ if environment is None else environment).get(VISIBLE)
    every = everything()
    if named is None:
        return _one_slice([_first_slice(device, every) for device in every if not device.parent])
    chosen = _listed(named, every)
    return [] if _twice(chosen) else _one_slice([_first_slice(device, every) for device in chosen])


def select(gpus: int | str | Sequence[int | str]) -> list[Device]:
    """The visible GPUs that `gpus` names by index (nvidia-smi's) or by UUID, which may be shortened: 1, "0,1" or a list.

    A MIG slice may be named where CUDA_VISIBLE_DEVICES is not set, or names it. Raises `SettingError` for one that is not there, that
    CUDA_VISIBLE_DEVICES hides, or that is named twice, for none, for a card that is cut into several slices, and for more than one slice.
    """
    gpus = gpus.split(",") if isinstance(gpus, str) else [gpus] if isinstance(gpus, int) else gpus
    there = visible() if VISIBLE in os.environ else [device for device in everything() if not device.slices]
    chosen = [_match(str(name).strip(), there) or _only_slice(str(name).strip(), there) for name in gpus]
    known = ", ".join(f"{device.cuda_name} ({device.name})" for device in there) or "none"
    for name, device in zip(gpus, chosen, strict=True):
        if device is None:
            hidden = f" ({VISIBLE} is {os.environ[VISIBLE]!r})" if VISIBLE in os.environ else ""
            raise SettingError(f"There is no GPU {name!r} for this process{hidden}.", f"There is: {known}.")
    found = [device for device in chosen if device is not None]
    if not found or _twice(found):
        raise SettingError(f"gpus is {list(gpus)}: name at least one GPU, and each once.", f"There is: {known}.")
    if len(found) > 1 and any(device.parent for device in found):
        raise SettingError("One process sees one MIG slice only, and no card beside it.", f"Name one of: {known}.")
    return found


def find(uuids: Sequence[str]) -> list[Device]:
    """The GPUs and slices with these UUIDs, now, without those that are gone."""
    every = everything()
    return [device for uuid in uuids for device in every if device.uuid == uuid]


def overlap(one: str, other: str, every: Sequence[Device]) -> bool:
    """Whether two UUIDs share hardware: the same GPU or slice, or a slice and its own card. `every` is `everything()`."""
    parents = {device.uuid: device.parent for device in every if device.parent}
    return one == other or parents.get(one) == other or parents.get(other) == one


def driver_version() -> str:
    """The NVIDIA driver's version, such as "580.159.04"; "" without one."""
    nvml = load_nvml()
    return str(ask(nvml, "SystemGetDriverVersion") or "") if nvml else ""


def memory_used(uuids: Sequence[str] | None = None) -> list[int]:
    """Bytes in use on each GPU or slice of `uuids`, in their order, or on all that CUDA may use; 0 where it is not known.

    Nor is it told of a GPU that shares the machine's memory (`Device.memory_told`): what others take there comes and goes.
    """
    nvml = load_nvml()
    if nvml is None:
        return [0 for _ in uuids or ()]
    chosen = [device.uuid for device in everything() if not device.slices] if uuids is None else uuids
    known = {uuid: memory_info(nvml, handle) for uuid, _, handle, _ in _handles(nvml) if uuid in chosen}
    return [known[uuid][1] if uuid in known and known[uuid][2] in OWN_MEMORY else 0 for uuid in chosen]


def device_handle(nvml: Any, device: Device | str) -> Any:
    """NVML's handle of a GPU or MIG slice, also by its UUID; None if it is gone."""
    uuid = device if isinstance(device, str) else device.uuid
    return next((handle for known, _, handle, _ in _handles(nvml) if known == uuid), None)


def device_kind() -> str:
    """ "gpu" if this process may use one, else "cpu"; LABKIT_DEVICE overrides it.

    Raises `SettingError` for another word in LABKIT_DEVICE, and `GpuUnusable` where there is a GPU and it cannot be used: nobody wants
    the CPU then without a word.
    """
    said = os.environ.get(FORCED)
    if said:
        if said not in KINDS:
            raise SettingError(f"{FORCED} is {said!r}.", f"export {FORCED}=cpu or gpu, or: unset {FORCED}")
        return said
    there = visible()
    if there:
        return "gpu"
    wrong = problem()
    if wrong:
        raise GpuUnusable(*wrong)
    return "cpu"


def problem(environment: Mapping[str, str] | None = None) -> tuple[str, str] | None:
    """Cause and fix where this machine has a GPU that this process cannot use, though nobody hid it on purpose; else None."""
    env = os.environ if environment is None else environment
    if visible(env):
        return None
    failure = binding.failure()
    if failure:
        return f"{failure.cause} NVML says: {failure.said}.", f"{failure.fix} To go on without a GPU: export LABKIT_DEVICE=cpu"
    named, every = env.get(VISIBLE), everything()
    if named is None or named.strip() in HIDDEN_ON_PURPOSE or not every:
        return None
    known = ", ".join(f"{device.cuda_name} ({device.name})" for device in every if not device.slices)
    why = "names a GPU twice" if _twice(_listed(named, every)) else "names no GPU of this machine first"
    return (
        f"{VISIBLE} is {named!r}, which {why}: CUDA then sees none.",
        f"unset {VISIBLE}, or name one of: {known}. To go on without a GPU: export {VISIBLE}=-1",
    )


def _listed(named: str, every: Sequence[Device]) -> list[Device]:
    """The devices that the entries of CUDA_VISIBLE_DEVICES stand for, up to the first that stands for none or is of another form.

    As the driver reads it (580, on an H100): an entry is the number that it begins with ("0gpu", "+0" and "0.5" are 0), or a UUID that
    may be cut off; blanks before a UUID spoil it.
    """
    chosen: list[Device] = []
    form = ""
    for entry in named.split(","):
        number = re.match(r"\s*([+-]?[0-9]+)", entry)
        name = str(int(number[1])) if number else entry.rstrip()
        match = _match(name, every)
        if match is None or (form and form != ("number" if number else name[:4])):
            break
        form = "number" if number else name[:4]
        chosen.append(match)
    return chosen


def _match(name: str, among: Sequence[Device]) -> Device | None:
    """The device that `name` (an index or the beginning of a UUID) stands for; a MIG slice is asked for by its UUID."""
    if name.isascii() and name.isdigit():
        return next((device for device in among if device.index == int(name) and not device.parent), None)
    if not name.startswith(("GPU-", MIG)) or len(name) == len(MIG):
        return None
    known = [device for device in among if device.uuid.startswith(name)]
    return known[0] if len(known) == 1 else next((device for device in known if device.uuid == name), None)


def _only_slice(name: str, among: Sequence[Device]) -> Device | None:
    """The slice that stands for its card, where that has just one."""
    parts = [device for device in among if device.parent and name in (str(device.index), device.parent)]
    if len(parts) > 1:
        known = ", ".join(f"{part.uuid} ({part.name})" for part in parts)
        raise SettingError(f"GPU {name} is cut into MIG slices.", f"Name one: {known}.")
    return parts[0] if parts else None


def _first_slice(device: Device, every: Sequence[Device]) -> Device:
    return next((part for part in every if part.parent == device.uuid), device) if device.slices else device


def _one_slice(chosen: list[Device]) -> list[Device]:
    """What CUDA enumerates: the first slice alone, or whole cards alone."""
    if chosen and chosen[0].parent:
        return chosen[:1]
    return [device for device in chosen if not device.parent]


def _twice(chosen: Sequence[Device]) -> bool:
    return len({device.uuid for device in chosen}) != len(chosen)


def _handles(nvml: Any) -> Iterator[tuple[str, int, Any, Any]]:
    """(UUID, index of the card, handle, (UUID, handle) of the card of a slice) of each card and, after it, its slices.

    A UUID that is kept back, or given twice, is replaced by the place: two cards never pass for one.
    """
    seen: set[str] = set()
    for index, card in binding.cards(nvml):
        uuid = _new_name(str(ask(nvml, "DeviceGetUUID", card) or ""), f"index-{index}", seen)
        yield uuid, index, card, None
        for place, part in enumerate(binding.slices(nvml, card)):
            yield _new_name(str(ask(nvml, "DeviceGetUUID", part) or ""), f"{uuid}/slice-{place}", seen), index, part, (uuid, card)


def _new_name(uuid: str, place: str, seen: set[str]) -> str:
    name = uuid if uuid and uuid not in seen else place
    seen.add(name)
    return name


def _device(nvml: Any, uuid: str, index: int, handle: Any, parent: tuple[str, Any] | None, driver: str) -> Device:
    total, used, call = memory_info(nvml, handle)
    return Device(
        index=index,
        name=str(ask(nvml, "DeviceGetName", handle) or "NVIDIA GPU"),
        uuid=uuid,
        total_bytes=total,
        used_bytes=used,
        power_watts=from_thousandths(ask(nvml, "DeviceGetPowerUsage", handle)),
        power_limit_watts=from_thousandths(ask(nvml, "DeviceGetEnforcedPowerLimit", handle)),
        utilisation_percent=utilisation_of(nvml, handle),
        temperature=ask(nvml, "DeviceGetTemperature", handle, getattr(nvml, "NVML_TEMPERATURE_GPU", 0)),
        driver=driver,
        memory_call=call,
        capability=binding.capability(nvml, parent[1] if parent else handle),
        parent=parent[0] if parent else "",
        slices=0 if parent else len(binding.slices(nvml, handle)),
    )
