"""A stand-in for NVML that answers like odd cards, odd drivers and cut cards do."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

GIB = 2**30


class Card:
    """What one stand-in card answers; None stands for "not supported". `slices` are its MIG slices."""

    def __init__(self, *, slices: tuple[Card, ...] = (), **answers: Any) -> None:
        self.slices = slices
        defaults = {
            "Name": "NVIDIA H200",
            "UUID": "GPU-1",
            "PowerUsage": 120_000,
            "EnforcedPowerLimit": 700_000,
            "UtilizationRates": SimpleNamespace(gpu=40, memory=7),
            "Temperature": 31,
            "CudaComputeCapability": (9, 0),
            "TotalEnergyConsumption": 5_000_000,
            "memory_v1": SimpleNamespace(total=140 * GIB, used=int(0.6 * GIB)),
            "memory_v2": memory(0),
        }
        self.answers = defaults | answers

    def hold(self, used: int) -> None:
        """From now on so many bytes are in use."""
        self.answers["memory_v2"] = memory(used)


def memory(used: int, total: int = 140 * GIB) -> SimpleNamespace:
    return SimpleNamespace(total=total, used=used)


class NVMLError(Exception):
    """As the binding's: a code, and the driver's words for it."""

    def __init__(self, value: int, words: str = "Not Supported") -> None:
        super().__init__(words)
        self.value = value


def fake_nvml(cards: list[Card], *, init: Exception | None = None, lost: tuple[int, ...] = (), driver: str = "580.159.04") -> ModuleType:
    """NVML with `cards`; `init` is what its start raises, `lost` are the indices of cards that no longer answer."""
    nvml: Any = ModuleType("pynvml")
    nvml.NVMLError = NVMLError
    nvml.NVML_TEMPERATURE_GPU = 0
    nvml.nvmlMemory_v2 = 0x02000028

    def answer(card: Card, name: str) -> Any:
        if card.answers[name] is None:
            raise NVMLError(3)
        return card.answers[name]

    def asks(name: str) -> Callable[..., Any]:
        return lambda card, *rest: answer(card, name)

    for name in set(Card().answers) - {"memory_v1", "memory_v2"}:
        setattr(nvml, f"nvmlDeviceGet{name}", asks(name))
    nvml.nvmlDeviceGetMemoryInfo = lambda card, version=None: answer(card, "memory_v2" if version else "memory_v1")

    def start() -> None:
        if init:
            raise init

    def by_index(index: int) -> Card:
        if index in lost:
            raise NVMLError(15, "GPU is lost")
        return cards[index]

    def part(card: Card, place: int) -> Card:
        if place >= len(card.slices):
            raise NVMLError(6, "Not Found")
        return card.slices[place]

    nvml.nvmlInit = start
    nvml.nvmlSystemGetDriverVersion = lambda: driver
    nvml.nvmlDeviceGetCount = lambda: len(cards)
    nvml.nvmlDeviceGetHandleByIndex = by_index
    nvml.nvmlDeviceGetMigMode = lambda card: (int(bool(card.slices)),) * 2
    nvml.nvmlDeviceGetMaxMigDeviceCount = lambda card: 7
    nvml.nvmlDeviceGetMigDeviceHandleByIndex = part
    return nvml
