"""The GPUs of this machine as NVML tells of them, now: all of them, those that this process may use, those of a server.

Covers: what is there (`devices`), what CUDA_VISIBLE_DEVICES leaves of it (`visible`), a choice by index or UUID (`select`), bytes in
use (`memory_used`), the questions that a sampler asks again and again. Does not cover: which process holds memory on a GPU (in a
container NVML's process list is empty, and its pids are the host's), recording over time (`telemetry.sampler`).

A GPU is named by its index in NVML's order, which is that of the PCI bus and of nvidia-smi, and by its UUID; a MIG slice by its UUID
only. CUDA counts the fastest card first unless CUDA_DEVICE_ORDER=PCI_BUS_ID says otherwise: `serve` says so wherever there are two.

Memory is NVML's v2 call where the driver has it: what is allocated, without the driver's own reserve. The older v1 call counts that
reserve as used: an idle H200 then reports 0.6 GiB. `Device.memory_call` says which one it was.
Used by notebooks 01 and 03 to 06 through doctor, servers and the live view.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ..common.errors import SettingError

VISIBLE = "CUDA_VISIBLE_DEVICES"
MIG = "MIG-"


@dataclass(frozen=True)
class Device:
    """One GPU or MIG slice, now. Bytes, watts, percent, degrees Celsius; None where the card does not say.

    `index` is the card's in NVML's order, a slice has that of its card.
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

    @property
    def cuda_name(self) -> str:
        """What CUDA_VISIBLE_DEVICES calls it: the index of a card (not every engine reads a card's UUID), the UUID of a slice."""
        return self.uuid if self.uuid.startswith(MIG) else str(self.index)


def devices() -> list[Device]:
    """The GPUs of this machine, in NVML's order; [] without a GPU or a driver. Raises nothing."""
    nvml = load_nvml()
    if nvml is None:
        return []
    driver = str(ask_nvml(nvml, nvml.nvmlSystemGetDriverVersion) or "")
    return [_device(nvml, index, handle, driver) for index, handle in enumerate(device_handles(nvml))]


def visible(environment: Mapping[str, str] | None = None) -> list[Device]:
    """The GPUs that CUDA_VISIBLE_DEVICES of `environment` (default: this process's) leaves, in its order; all of them without it.

    As CUDA reads it: an entry that names no GPU hides itself and all that follow. Raises nothing.
    """
    named = (os.environ if environment is None else environment).get(VISIBLE)
    every = devices()
    if named is None or not every:
        return every
    chosen: list[Device] = []
    for entry in named.split(","):
        match = _match(entry.strip(), every)
        if match is None:
            break
        chosen.append(match)
    return chosen


def select(gpus: int | str | Sequence[int | str]) -> list[Device]:
    """The visible GPUs that `gpus` names by index (nvidia-smi's) or by UUID, which may be shortened: 1, "0,1" or a list.

    Raises `SettingError` for one that is not there, that CUDA_VISIBLE_DEVICES hides, or that is named twice, and for none.
    """
    gpus = gpus.split(",") if isinstance(gpus, str) else [gpus] if isinstance(gpus, int) else gpus
    there = visible()
    chosen = [_match(str(name).strip(), there) for name in gpus]
    known = ", ".join(f"{device.cuda_name} ({device.name})" for device in there) or "none"
    for name, device in zip(gpus, chosen, strict=True):
        if device is None:
            hidden = f" ({VISIBLE} is {os.environ[VISIBLE]!r})" if VISIBLE in os.environ else ""
            raise SettingError(f"There is no GPU {name!r} for this process{hidden}.", f"There is: {known}.")
    found = [device for device in chosen if device is not None]
    if not found or len({device.uuid for device in found}) != len(found):
        raise SettingError(f"gpus is {list(gpus)}: name at least one GPU, and each once.", f"There is: {known}.")
    return found


def find(uuids: Sequence[str]) -> list[Device]:
    """The GPUs and slices with these UUIDs, now, without those that are gone."""
    every = devices()
    return [device for uuid in uuids if (device := _match(uuid, every)) is not None]


def driver_version() -> str:
    """The NVIDIA driver's version, such as "580.159.04"; "" without one."""
    nvml = load_nvml()
    return str(ask_nvml(nvml, nvml.nvmlSystemGetDriverVersion) or "") if nvml else ""


def memory_used(uuids: Sequence[str] | None = None) -> list[int]:
    """Bytes in use on each GPU of `uuids`, in their order, or of the whole machine, in that of `devices()`; 0 for one that is gone."""
    nvml = load_nvml()
    if nvml is None:
        return [0 for _ in uuids or ()]
    handles = device_handles(nvml) if uuids is None else [device_handle(nvml, uuid) for uuid in uuids]
    return [memory_info(nvml, handle)[1] if handle is not None else 0 for handle in handles]


def device_kind() -> str:
    """ "gpu" if this process may use one, else "cpu"; LABKIT_DEVICE overrides it."""
    return os.environ.get("LABKIT_DEVICE") or ("gpu" if visible() else "cpu")


def _match(name: str, among: Sequence[Device]) -> Device | None:
    """The device that `name` (an index or the beginning of a UUID) stands for; a MIG slice is asked for by its UUID."""
    if name.isascii() and name.isdigit():
        return next((device for device in among if device.index == int(name) and not device.uuid.startswith(MIG)), None)
    if not name.startswith(("GPU-", MIG)):
        return None
    known = [device for device in among if device.uuid.startswith(name)]
    return known[0] if len(known) == 1 else _slice(name) if name.startswith(MIG) else None


def _slice(uuid: str) -> Device | None:
    nvml = load_nvml()
    handle = device_handle(nvml, uuid) if nvml else None
    if nvml is None or handle is None:
        return None
    parent = ask_nvml(nvml, nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, handle)
    index = ask_nvml(nvml, nvml.nvmlDeviceGetIndex, parent) if parent is not None else None
    return _device(nvml, int(index or 0), handle, driver_version())


def _device(nvml: Any, index: int, handle: Any, driver: str) -> Device:
    total, used, call = memory_info(nvml, handle)
    return Device(
        index=index,
        name=str(ask_nvml(nvml, nvml.nvmlDeviceGetName, handle) or "NVIDIA GPU"),
        uuid=str(ask_nvml(nvml, nvml.nvmlDeviceGetUUID, handle) or ""),
        total_bytes=total,
        used_bytes=used,
        power_watts=from_thousandths(ask_nvml(nvml, nvml.nvmlDeviceGetPowerUsage, handle)),
        power_limit_watts=from_thousandths(ask_nvml(nvml, nvml.nvmlDeviceGetEnforcedPowerLimit, handle)),
        utilisation_percent=utilisation_of(nvml, handle),
        temperature=ask_nvml(nvml, nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
        driver=driver,
        memory_call=call,
    )


def load_nvml() -> Any:
    """The NVML binding (package nvidia-ml-py), initialised; None if there is no driver or no device."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, no library, a library without its driver: each raises a kind of its own
        return None
    return pynvml


def device_handles(nvml: Any) -> list[Any]:
    """NVML's handles of all GPUs that can be had, in its order."""
    count = ask_nvml(nvml, nvml.nvmlDeviceGetCount) or 0
    handles = [ask_nvml(nvml, nvml.nvmlDeviceGetHandleByIndex, index) for index in range(count)]
    return [handle for handle in handles if handle is not None]


def device_handle(nvml: Any, device: Device | str) -> Any:
    """NVML's handle of a GPU or MIG slice, also by its UUID; None if it is gone. A card may keep its UUID to itself."""
    uuid = device if isinstance(device, str) else device.uuid
    if not uuid and isinstance(device, Device):
        return ask_nvml(nvml, nvml.nvmlDeviceGetHandleByIndex, device.index)
    return ask_nvml(nvml, nvml.nvmlDeviceGetHandleByUUID, uuid)


def ask_nvml(nvml: ModuleType, question: Callable[..., Any], *arguments: Any) -> Any:
    """The answer, or None where this card or driver has none (N/A, not supported, no permission, card lost)."""
    try:
        return question(*arguments)
    except nvml.NVMLError:
        return None


def memory_info(nvml: Any, handle: Any) -> tuple[int, int, str]:
    """(total bytes, used bytes, which call answered); zeros if neither does."""
    for call, version in (("v2", getattr(nvml, "nvmlMemory_v2", None)), ("v1", None)):
        if call == "v2" and version is None:
            continue
        info = ask_nvml(nvml, nvml.nvmlDeviceGetMemoryInfo, handle, version)
        if info is not None:
            return int(info.total), int(info.used), call
    return 0, 0, ""


def utilisation_of(nvml: Any, handle: Any) -> float | None:
    """Percent of the last sample period in which a kernel ran."""
    rates = ask_nvml(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
    return None if rates is None else float(rates.gpu)


def from_thousandths(value: int | None) -> float | None:
    """Milliwatts as watts, millijoules as joules."""
    return None if value is None else value / 1000
