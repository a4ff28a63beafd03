"""A stand-in for NVML that answers like odd cards do."""

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


def fake_nvml(cards: list[Card]) -> ModuleType:
    nvml: Any = ModuleType("pynvml")
    nvml.NVMLError = type("NVMLError", (Exception,), {})
    nvml.NVML_TEMPERATURE_GPU = 0
    nvml.nvmlMemory_v2 = 0x02000028

    def answer(card: Card, name: str) -> Any:
        if card.answers[name] is None:
            raise nvml.NVMLError("Not Supported")
        return card.answers[name]

    def asks(name: str) -> Callable[..., Any]:
        return lambda card, *rest: answer(card, name)

    for name in ("Name", "UUID", "PowerUsage", "EnforcedPowerLimit", "UtilizationRates", "Temperature", "TotalEnergyConsumption"):
        setattr(nvml, f"nvmlDeviceGet{name}", asks(name))
    nvml.nvmlDeviceGetMemoryInfo = lambda card, version=None: answer(card, "memory_v2" if version else "memory_v1")
    nvml.nvmlInit = lambda: None
    nvml.nvmlSystemGetDriverVersion = lambda: "580.159.04"
    nvml.nvmlDeviceGetCount = lambda: len(cards)
    nvml.nvmlDeviceGetHandleByIndex = lambda index: cards[index]
    every = [*cards, *(part for card in cards for part in card.slices)]

    def by_uuid(uuid: str) -> Card:
        found = [card for card in every if card.answers["UUID"] == uuid]
        if not found:
            raise nvml.NVMLError("Not Found")
        return found[0]

    nvml.nvmlDeviceGetHandleByUUID = by_uuid
    nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle = lambda part: next(card for card in cards if part in card.slices)
    nvml.nvmlDeviceGetIndex = lambda card: cards.index(card)
    return nvml
