"""NVML, the driver's own library: loaded, asked question by question, and what it means when it fails.

A library that fails is not a machine without a GPU: after an update of the driver, a lost card or a container whose rights to the
device are gone, the GPU is there and nobody can use it. `failure` tells the two apart.

Questions are put by name ("DeviceGetName"), because old drivers and old bindings lack some; the answer is then None.
Covers: the binding (package nvidia-ml-py), handles of cards and MIG slices, memory. Does not cover: which of them this process may
use (`gpu`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEVICE_FILES = (Path("/dev"), "nvidia[0-9]*")
"""What a machine or container that was given a GPU has."""
MIG = "MIG-"
ABSENT = {9: "driver not loaded", 12: "shared library not found"}
"""NVML's codes for a machine without a driver or without its library."""


@dataclass(frozen=True)
class DriverFailure:
    """Why nothing, or not everything, is known of the GPUs: what NVML said, what that means, what to do."""

    said: str
    cause: str
    fix: str


MEANINGS = (
    (
        18,
        "driver/library version mismatch",
        "The NVIDIA driver in the kernel and its library have different versions, as after an update without a restart: CUDA fails.",
        "Restart the machine (a rented one: switch the instance off and on again); inside a container only its host can do that.",
    ),
    (
        15,
        "gpu is lost",
        "A GPU no longer answers: it fell off the bus or overheated.",
        "Restart the instance; if it stays, the card is broken: tell the provider, or take another instance.",
    ),
    (
        16,
        "reset required",
        "A GPU must be reset before it can be used again.",
        "Restart the instance; with root on the host itself: nvidia-smi --gpu-reset.",
    ),
    (
        4,
        "insufficient permission",
        "This user or container may not talk to the GPU.",
        "Restart the container with its GPU (docker: --gpus all); on a host: the rights of /dev/nvidia*, or the group video.",
    ),
    (
        17,
        "operating system has blocked",
        "The operating system or the container's control group keeps the GPU from this process.",
        "Restart the container with its GPU (docker: --gpus all).",
    ),
    (
        999,
        "unknown error",
        "The driver failed without a reason. In a container this is mostly a device right that was lost while it ran "
        "(systemctl daemon-reload on the host).",
        "Restart the container or the instance.",
    ),
)
"""Code, the words of the driver's library, what they mean, what to do."""


def load_nvml() -> Any:
    """The binding, initialised; None if there is no driver, no device, or if it fails."""
    return _initialised()[0]


def failure() -> DriverFailure | None:
    """Why NVML gives no answer, or none of one card, though there is a GPU; None where it answers, or where there is no GPU."""
    nvml, said = _initialised()
    if nvml is None:
        return said
    uncounted = _problem(nvml, "DeviceGetCount")
    if uncounted is not None:
        return _meaning(uncounted)
    for index in range(int(ask(nvml, "DeviceGetCount") or 0)):
        problem = _problem(nvml, "DeviceGetHandleByIndex", index)
        if problem is not None:
            return _meaning(problem, f"GPU {index}: ")
    return None


def ask(nvml: Any, question: str, *arguments: Any) -> Any:
    """The answer to nvml<question>, or None where this card, driver or binding has none (not supported, no permission, card lost)."""
    function = getattr(nvml, f"nvml{question}", None)
    if function is None:
        return None
    try:
        return function(*arguments)
    except nvml.NVMLError:
        return None


def cards(nvml: Any) -> Iterator[tuple[int, Any]]:
    """(index, handle) of each card that can be had. A lost one keeps its index: the others do not move up."""
    for index in range(int(ask(nvml, "DeviceGetCount") or 0)):
        handle = ask(nvml, "DeviceGetHandleByIndex", index)
        if handle is not None:
            yield index, handle


def slices(nvml: Any, card: Any) -> list[Any]:
    """The handles of a card's MIG slices, [] of a card that is not in MIG mode."""
    mode = ask(nvml, "DeviceGetMigMode", card)
    if not mode or not mode[0]:
        return []
    places = range(int(ask(nvml, "DeviceGetMaxMigDeviceCount", card) or 0))
    return [part for place in places if (part := ask(nvml, "DeviceGetMigDeviceHandleByIndex", card, place)) is not None]


def capability(nvml: Any, card: Any) -> tuple[int, int] | None:
    """Compute capability of a card, (8, 6) for 8.6."""
    answer = ask(nvml, "DeviceGetCudaComputeCapability", card)
    return (int(answer[0]), int(answer[1])) if answer else None


def memory_info(nvml: Any, handle: Any) -> tuple[int, int, str]:
    """(total bytes, used bytes, which call answered: "v2", "v1", or "system" where the GPU shares the machine's); zeros, "" if none."""
    for call, version in (("v2", getattr(nvml, "nvmlMemory_v2", None)), ("v1", None)):
        if call == "v2" and version is None:
            continue
        info = ask(nvml, "DeviceGetMemoryInfo", handle, version)
        if info is not None and info.total:
            return int(info.total), int(info.used), call
    return _shared_memory() if _is_unified(nvml, handle) else (0, 0, "")


def utilisation_of(nvml: Any, handle: Any) -> float | None:
    """Percent of the last sample period in which a kernel ran."""
    rates = ask(nvml, "DeviceGetUtilizationRates", handle)
    return None if rates is None else float(rates.gpu)


def from_thousandths(value: int | None) -> float | None:
    """Milliwatts as watts, millijoules as joules."""
    return None if value is None else value / 1000


UNIFIED = ("GB10", "GH200", "GB200", "GB300", "Orin", "Thor", "Tegra", "Xavier", "Jetson", "NVIDIA Spark")
"""Parts of the names of GPUs that can use the machine's own memory. Of these, "not supported" does not mean "may not be known"."""


def _is_unified(nvml: Any, handle: Any) -> bool:
    """A refusal alone is no proof: the card of MIG slices and a container without rights refuse too."""
    name = str(ask(nvml, "DeviceGetName", handle) or "")
    problem = _problem(nvml, "DeviceGetMemoryInfo", handle)
    refused = problem is not None and "support" not in str(problem).lower() and getattr(problem, "value", 3) != 3
    return not refused and any(part.lower() in name.lower() for part in UNIFIED)


def _shared_memory() -> tuple[int, int, str]:
    import psutil

    memory = psutil.virtual_memory()
    return memory.total, memory.total - memory.available, "system"


def _initialised() -> tuple[Any, DriverFailure | None]:
    """(the binding, None), or (None, why it fails; None where there simply is no GPU)."""
    try:
        import pynvml
    except ImportError:
        missing = DriverFailure(
            "no module pynvml", "The package nvidia-ml-py is missing, so nothing is known of the GPU.", "Call ./lab again."
        )
        return None, missing if _device_files() else None
    try:
        pynvml.nvmlInit()
    except Exception as problem:  # NVMLError of every kind, and OSError for a damaged library
        return None, _meaning(problem) if _device_files() or not _is_absence(problem) else None
    return pynvml, None


def _is_absence(problem: Exception) -> bool:
    """Whether a machine without a GPU says this. Images saved with a GPU keep libraries of no bytes ("file too short") without one."""
    said = str(problem).lower()
    return isinstance(problem, OSError) or getattr(problem, "value", None) in ABSENT or any(words in said for words in ABSENT.values())


def _device_files() -> bool:
    folder, pattern = DEVICE_FILES
    return any(folder.glob(pattern))


def _problem(nvml: Any, question: str, *arguments: Any) -> Exception | None:
    try:
        getattr(nvml, f"nvml{question}")(*arguments)
    except (nvml.NVMLError, AttributeError) as problem:
        return problem
    return None


def _meaning(problem: Exception, where: str = "") -> DriverFailure:
    """What NVML's error means. Its code decides; a library that is too old to know a code gives its words."""
    code, said = getattr(problem, "value", None), str(problem).strip() or type(problem).__name__
    for number, words, cause, fix in MEANINGS:
        if code == number or words in said.lower():
            return DriverFailure(said, where + cause, fix)
    if _is_absence(problem):
        cause = "A GPU is there (/dev/nvidia*), and the driver's library or kernel module is missing or damaged."
        fix = "In a container: start it with the capability utility (docker: --gpus all, NVIDIA_DRIVER_CAPABILITIES=compute,utility)."
        return DriverFailure(said, where + cause, fix)
    return DriverFailure(
        said, f"{where}The driver's library (NVML) fails.", "nvidia-smi in a terminal says more; restarting the instance helps mostly."
    )
