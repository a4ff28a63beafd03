"""Devices and the sampler: on this machine as it is, and against a stand-in for NVML that answers like odd cards do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import psutil
import pytest
from nvml_stand_in import Card, fake_nvml, memory

from labkit.common.errors import SettingError
from labkit.machine import gpu
from labkit.telemetry.sampler import Sampler

GIB = 2**30
REAL = bool(gpu.devices())


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    return lambda *cards: monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(list(cards)))


@pytest.mark.skipif(REAL, reason="this machine has a GPU")
def test_without_a_gpu_everything_is_empty() -> None:
    assert gpu.devices() == []
    assert gpu.memory_used() == []
    assert gpu.driver_version() == ""


@pytest.mark.skipif(not REAL, reason="no GPU here")
def test_a_real_gpu_is_described() -> None:
    first = gpu.devices()[0]
    assert first.total_bytes > first.used_bytes >= 0
    assert first.driver == gpu.driver_version() != ""
    assert len(gpu.memory_used()) == len(gpu.devices())


def test_a_driver_library_that_fails_counts_as_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    broken: Any = ModuleType("pynvml")

    def init() -> None:
        raise OSError("libnvidia-ml.so.1: file too short")

    broken.nvmlInit = init
    monkeypatch.setitem(sys.modules, "pynvml", broken)
    assert gpu.devices() == []


def test_a_card_is_described_in_bytes_and_watts(nvml: Callable[..., None]) -> None:
    nvml(Card())
    (card,) = gpu.devices()
    assert (card.total_bytes, card.used_bytes, card.memory_call) == (140 * GIB, 0, "v2")
    assert (card.power_watts, card.power_limit_watts, card.utilisation_percent, card.temperature) == (120.0, 700.0, 40.0, 31)
    assert (card.name, card.uuid, card.driver) == ("NVIDIA H200", "GPU-1", "580.159.04")


def test_an_old_driver_answers_the_v1_memory_call(nvml: Callable[..., None]) -> None:
    nvml(Card(memory_v2=None))
    (card,) = gpu.devices()
    assert (card.used_bytes, card.memory_call) == (int(0.6 * GIB), "v1")
    assert gpu.memory_used() == [int(0.6 * GIB)]


def test_a_card_that_says_nothing_is_no_crash(nvml: Callable[..., None]) -> None:
    nvml(Card(), Card(**dict.fromkeys(Card().answers)))
    mute = gpu.devices()[1]
    assert (mute.power_watts, mute.power_limit_watts, mute.utilisation_percent, mute.temperature) == (None, None, None, None)
    assert (mute.total_bytes, mute.used_bytes) == (0, 0)


def test_the_sampler_records_every_card(nvml: Callable[..., None]) -> None:
    nvml(Card(PowerUsage=None), Card(UUID="GPU-2"))
    with Sampler(hz=5) as sampler:
        sampler.mark("load")
    recording = sampler.recording
    assert recording.kind == "gpu" and "2 x NVIDIA H200" in recording.machine and "580" in recording.machine
    assert [track.power_limit_watts for track in recording.tracks] == [700.0, 700.0]
    assert set(recording.tracks[0].power) == {None} and set(recording.tracks[1].power) == {120.0}
    assert len(recording.seconds) == len(recording.tracks[0].memory) >= 2
    assert [text for _, text in recording.marks] == ["load"]


def test_energy_comes_from_the_counter(nvml: Callable[..., None]) -> None:
    card, mute = Card(), Card(UUID="GPU-2", TotalEnergyConsumption=None)
    nvml(card, mute)
    with Sampler(hz=5) as sampler:
        card.answers["TotalEnergyConsumption"] += 2_500_000
    assert sampler.recording.energy_joules(0) == (2500.0, "the card's energy counter")
    joules, source = sampler.recording.energy_joules(1) or (0.0, "")
    assert source == "sampled power x time" and joules >= 0


def test_without_a_gpu_it_measures_the_processes() -> None:
    child = subprocess.Popen([sys.executable, "-c", "x = bytearray(64 * 2**20)\nwhile True: pass"])
    try:
        sampler = Sampler(lambda: [psutil.Process(os.getpid()), psutil.Process(child.pid)], hz=5, kind="cpu").start()
        while len(sampler.recording) < 4:
            time.sleep(0.05)
        recording = sampler.stop()
    finally:
        child.kill()
        child.wait()
    assert recording.kind == "cpu" and "no GPU" in recording.machine
    memory, cpu = recording.spread("memory"), recording.spread("utilisation")
    assert memory is not None and memory.most > 0.06
    assert cpu is not None and 0 < cpu.most <= 100
    assert recording.spread("power") is None and recording.energy_joules() is None


def test_processes_that_end_meanwhile_are_no_crash() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    gone = psutil.Process(child.pid)
    child.wait()
    with Sampler(lambda: [gone], hz=5, kind="cpu") as sampler:
        pass
    assert set(sampler.recording.tracks[0].memory) == {0}


def test_stop_ends_the_thread_and_can_be_called_again(nvml: Callable[..., None]) -> None:
    nvml(Card())
    sampler = Sampler(hz=5).start()
    first = sampler.stop()
    assert sampler.stop() == first
    assert "labkit-sampler" not in [thread.name for thread in threading.enumerate()]


def test_a_recording_in_hand_does_not_change(nvml: Callable[..., None]) -> None:
    nvml(Card())
    with Sampler(hz=5) as sampler:
        early = sampler.recording
        count = len(early)
        sampler.mark("later")
    assert len(early) == count and early.marks == [] and len(sampler.recording) > count


@pytest.mark.parametrize("hz", [0, -1, 5.1, 100])
def test_rates_that_make_no_sense_are_refused(hz: float, nvml: Callable[..., None]) -> None:
    nvml(Card())
    with pytest.raises(SettingError, match="samples per second"):
        Sampler(hz=hz)


def test_nothing_to_watch_is_an_error(nvml: Callable[..., None]) -> None:
    nvml()
    with pytest.raises(SettingError, match="no GPU"):
        Sampler()


CARDS = (
    {"UUID": "GPU-aaaa-1", "Name": "NVIDIA L20"},
    {"UUID": "GPU-aabb-2", "Name": "NVIDIA H100"},
    {"UUID": "GPU-cccc-3", "Name": "NVIDIA H100"},
)


@pytest.mark.parametrize(
    ("variable", "indices"),
    [
        (None, [0, 1, 2]),
        ("1", [1]),
        ("2,0", [2, 0]),
        (" 2 , 0 ", [2, 0]),
        ("GPU-cccc-3", [2]),
        ("GPU-cccc", [2]),
        ("", []),
        ("-1", []),
        ("0,7,1", [0]),
        ("GPU-aa", []),
        ("all", []),
        ("²", []),
    ],
)
def test_what_cuda_visible_devices_leaves(
    nvml: Callable[..., None], monkeypatch: pytest.MonkeyPatch, variable: str | None, indices: list[int]
) -> None:
    nvml(*(Card(**answers) for answers in CARDS))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("LABKIT_DEVICE", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert [device.index for device in gpu.visible()] == indices
    assert gpu.device_kind() == ("gpu" if indices else "cpu")


def test_a_mig_slice_is_seen_by_its_uuid_with_its_own_memory(nvml: Callable[..., None]) -> None:
    part = Card(UUID="MIG-1111", Name="NVIDIA A100 MIG 1g.10gb", memory_v2=memory(3 * GIB, 10 * GIB), PowerUsage=None)
    nvml(Card(UUID="GPU-aaaa-1"), Card(UUID="GPU-aabb-2", slices=(part,)))
    (seen,) = gpu.visible({"CUDA_VISIBLE_DEVICES": "MIG-1111"})
    assert (seen.index, seen.uuid, seen.cuda_name, seen.total_bytes, seen.power_watts) == (1, "MIG-1111", "MIG-1111", 10 * GIB, None)
    assert gpu.memory_used(["MIG-1111"]) == [3 * GIB]
    assert gpu.visible({"CUDA_VISIBLE_DEVICES": "MIG-9999"}) == []


def test_gpus_are_chosen_by_index_or_uuid_among_the_visible(nvml: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    nvml(*(Card(**answers) for answers in CARDS))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,1")
    assert [device.index for device in gpu.select([1])] == [1]
    assert [device.cuda_name for device in gpu.select(["GPU-cccc-3", "1"])] == ["2", "1"]
    with pytest.raises(SettingError, match=r"no GPU 0 for this process \(CUDA_VISIBLE_DEVICES is '2,1'\)") as failure:
        gpu.select([0])
    assert failure.value.fix == "There is: 2 (NVIDIA H100), 1 (NVIDIA H100)."
    for wrong in ([], [1, 1], [1, "GPU-aabb"], ["H100"], [-1]):
        with pytest.raises(SettingError):
            gpu.select(wrong)


def test_memory_is_told_for_the_gpus_asked_for(nvml: Callable[..., None]) -> None:
    cards = [Card(**answers) for answers in CARDS]
    cards[1].hold(7 * GIB)
    nvml(*cards)
    assert gpu.memory_used() == [0, 7 * GIB, 0]
    assert gpu.memory_used(["GPU-aabb-2", "GPU-gone"]) == [7 * GIB, 0]


def test_a_server_s_recording_has_its_own_gpus_only(nvml: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [Card(**answers) for answers in CARDS]
    cards[2].hold(7 * GIB)
    nvml(*cards)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with Sampler(hz=5, gpus=["GPU-cccc-3"]) as sampler:
        pass
    assert [(track.name, track.memory[-1]) for track in sampler.recording.tracks] == [("GPU 2", 7 * GIB)]
    with Sampler(hz=5) as sampler:
        pass
    assert [track.name for track in sampler.recording.tracks] == ["GPU 0", "GPU 1"]
