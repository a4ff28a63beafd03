"""The GPUs of this machine as NVML tells of them, now.

Covers: what is there (`devices`), bytes in use (`memory_used`), the questions that a sampler asks again and again. Does not cover:
which process holds memory on a GPU (in a container NVML's process list is empty, and its pids are the host's), recording over time
(`telemetry.sampler`).

Memory is NVML's v2 call where the driver has it: what is allocated, without the driver's own reserve. The older v1 call counts that
reserve as used: an idle H200 then reports 0.6 GiB. `Device.memory_call` says which one it was.
Used by notebooks 01 and 03 to 06 through doctor, servers and the live view.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Device:
    """One GPU, now. Bytes, watts, percent, degrees Celsius; None where the card does not say."""

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


def devices() -> list[Device]:
    """The GPUs that this process may see, in NVML's order; [] without a GPU or a driver. Raises nothing."""
    nvml = load_nvml()
    if nvml is None:
        return []
    driver = str(ask_nvml(nvml, nvml.nvmlSystemGetDriverVersion) or "")
    return [_device(nvml, index, handle, driver) for index, handle in enumerate(device_handles(nvml))]


def driver_version() -> str:
    """The NVIDIA driver's version, such as "580.159.04"; "" without one."""
    nvml = load_nvml()
    return str(ask_nvml(nvml, nvml.nvmlSystemGetDriverVersion) or "") if nvml else ""


def memory_used() -> list[int]:
    """Bytes in use per GPU, in the order of `devices()`; [] without one."""
    nvml = load_nvml()
    return [memory_info(nvml, handle)[1] for handle in device_handles(nvml)] if nvml else []


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
    count = ask_nvml(nvml, nvml.nvmlDeviceGetCount) or 0
    handles = [ask_nvml(nvml, nvml.nvmlDeviceGetHandleByIndex, index) for index in range(count)]
    return [handle for handle in handles if handle is not None]


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
    rates = ask_nvml(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
    return None if rates is None else float(rates.gpu)


def from_thousandths(thousandths: int | None) -> float | None:
    return None if thousandths is None else thousandths / 1000


def device_kind() -> str:
    """ "gpu" if NVML shows one, else "cpu"; LABKIT_DEVICE overrides it."""
    return os.environ.get("LABKIT_DEVICE") or ("gpu" if devices() else "cpu")
