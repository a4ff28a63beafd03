"""Devices and the sampler: on this machine as it is, and against a stand-in for NVML that answers like odd cards do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from nvml_stand_in import Card, NVMLError, fake_nvml, memory

from labkit.common.errors import GpuUnusable, ProfileError, SettingError
from labkit.machine import gpu
from labkit.machine import nvml as nvml_binding
from labkit.models.profiles import profile
from labkit.runtimes import environments
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


NO_FILES: list[str] = []


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine whose NVML fails to start; `files` are what it has in /dev."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("LABKIT_DEVICE", raising=False)
    monkeypatch.setattr(nvml_binding, "DEVICE_FILES", (tmp_path, "nvidia[0-9]*"))

    def fails(problem: Exception, files: list[str] = NO_FILES) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([], init=problem))
        for name in files:
            (tmp_path / name).write_text("")

    return fails


@pytest.mark.parametrize(
    ("problem", "cause", "fix"),
    [
        (NVMLError(18, "Driver/library version mismatch"), "have different versions", "Restart the machine"),
        (NVMLError(0, "Failed to initialize NVML: Driver/library version mismatch"), "have different versions", "Restart the machine"),
        (NVMLError(15, "GPU is lost"), "no longer answers", "Restart the instance"),
        (NVMLError(16, "GPU requires reset"), "must be reset", "--gpu-reset"),
        (NVMLError(4, "Insufficient Permissions"), "may not talk to the GPU", "--gpus all"),
        (NVMLError(17, "Operating System has blocked the request"), "control group", "--gpus all"),
        (NVMLError(999, "Unknown Error"), "without a reason", "Restart the container"),
        (NVMLError(77, "Something new"), "(NVML) fails", "nvidia-smi"),
    ],
)
def test_a_driver_that_fails_is_not_a_machine_without_a_gpu(driver: Callable[..., None], problem: Exception, cause: str, fix: str) -> None:
    driver(problem)
    assert gpu.devices() == [] and gpu.memory_used() == []
    said = nvml_binding.failure()
    assert said and cause in said.cause and fix in said.fix and said.said == str(problem)
    with pytest.raises(GpuUnusable, match="NVML says") as failure:
        gpu.device_kind()
    assert "export LABKIT_DEVICE=cpu" in failure.value.fix
    with pytest.raises(ProfileError, match="NVML says"):
        profile()
    with pytest.raises(GpuUnusable):
        environments.runtime_list("vllm")
    assert environments.runtime_list("open_webui").list == "open-webui", "the chat page asks for no GPU"


def test_whoever_says_cpu_gets_it(driver: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    driver(NVMLError(18, "Driver/library version mismatch"))
    monkeypatch.setenv("LABKIT_DEVICE", "cpu")
    assert (gpu.device_kind(), profile().name, environments.runtime_list("vllm").list) == ("cpu", "tiny", "vllm-cpu")


ABSENT = (NVMLError(12, "NVML Shared Library Not Found"), NVMLError(9, "Driver Not Loaded"), OSError("libnvidia-ml.so.1: file too short"))


@pytest.mark.parametrize("problem", ABSENT)
def test_no_driver_and_no_device_file_is_no_gpu(driver: Callable[..., None], problem: Exception) -> None:
    driver(problem)
    assert nvml_binding.failure() is None and gpu.device_kind() == "cpu"


@pytest.mark.parametrize("problem", ABSENT)
def test_a_device_file_without_a_driver_s_library_is_a_failure(driver: Callable[..., None], problem: Exception) -> None:
    driver(problem, ["nvidia0"])
    said = nvml_binding.failure()
    assert said and "missing or damaged" in said.cause


def test_the_control_file_alone_is_no_gpu(driver: Callable[..., None]) -> None:
    driver(ABSENT[0], ["nvidiactl", "nvidia-uvm"])
    assert nvml_binding.failure() is None


def test_cards_that_cannot_be_counted_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    binding: Any = fake_nvml([Card()])

    def count() -> int:
        raise NVMLError(999, "Unknown Error")

    binding.nvmlDeviceGetCount = count
    monkeypatch.setitem(sys.modules, "pynvml", binding)
    said = nvml_binding.failure()
    assert said and "without a reason" in said.cause and gpu.devices() == []


def test_a_lost_card_is_named_and_the_others_keep_their_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([Card(UUID="GPU-a"), Card(UUID="GPU-b")], lost=(0,)))
    assert [(card.index, card.uuid) for card in gpu.devices()] == [(1, "GPU-b")]
    said = nvml_binding.failure()
    assert said and said.cause.startswith("GPU 0: ")


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
    assert (mute.total_bytes, mute.used_bytes, mute.memory_call, mute.capability_text) == (0, 0, "", "unknown")


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
        ("0,0", []),
        ("1,GPU-aabb-2", [1]),
        ("GPU-aabb-2,1", [1]),
        ("GPU-aabb-2,GPU-aabb", []),
        ("-0,1", [0, 1]),
        ("0x1", [0]),
        ("0.5", [0]),
        (" GPU-aabb-2", []),
        ("GPU-aabb-2 ", [1]),
        ("GPU-", []),
        ("gpu-aabb-2", []),
        (",0", []),
        ("0,", [0]),
        ("0,,1", [0]),
        ("01,+2", [1, 2]),
        ("1gpu", [1]),
        ("3", []),
        ("none", []),
        ("NoDevFiles", []),
        ("0;1", [0]),
        ("１", []),
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
    if indices or (variable or "").strip() in gpu.HIDDEN_ON_PURPOSE:
        assert gpu.device_kind() == ("gpu" if indices else "cpu")
        return
    with pytest.raises(GpuUnusable) as failure:
        gpu.device_kind()
    assert repr(variable) in failure.value.cause and "0 (NVIDIA L20), 1 (NVIDIA H100)" in failure.value.fix
    with pytest.raises(ProfileError, match="CUDA_VISIBLE_DEVICES"):
        profile()


def part(number: int, gib: float = 9.75, used: int = 0) -> Card:
    memory_now = memory(used, int(gib * GIB))
    return Card(UUID=f"MIG-{number}", Name="NVIDIA A100 MIG 1g.10gb", memory_v2=memory_now, PowerUsage=None, CudaComputeCapability=None)


def cut(*parts: Card, **answers: object) -> Card:
    """A card in MIG mode, which by itself tells the whole card's memory."""
    return Card(
        **{"UUID": "GPU-cut", "Name": "NVIDIA A100", "memory_v2": memory(0, 40 * GIB), "CudaComputeCapability": (8, 0), **answers},
        slices=parts,
    )


def test_a_mig_slice_is_seen_by_its_uuid_with_its_own_memory(nvml: Callable[..., None]) -> None:
    nvml(Card(UUID="GPU-aaaa-1"), cut(part(1), part(2, used=3 * GIB)))
    (seen,) = gpu.visible({"CUDA_VISIBLE_DEVICES": "MIG-2"})
    assert (seen.index, seen.uuid, seen.cuda_name, seen.total_bytes) == (1, "MIG-2", "MIG-2", int(9.75 * GIB))
    assert (seen.power_watts, seen.capability, seen.parent) == (None, (8, 0), "GPU-cut"), "the card's capability is its slices'"
    assert gpu.memory_used(["MIG-2", "MIG-1"]) == [3 * GIB, 0]
    assert [device.uuid for device in gpu.devices()] == ["GPU-aaaa-1", "GPU-cut"]
    assert gpu.visible({"CUDA_VISIBLE_DEVICES": "MIG-9999"}) == []


@pytest.mark.parametrize(
    ("variable", "seen"),
    [
        (None, ["MIG-1"]),
        ("0", ["MIG-1"]),
        ("GPU-cut", ["MIG-1"]),
        ("MIG-2", ["MIG-2"]),
        ("MIG-2,MIG-1", ["MIG-2"]),
        ("0,1", ["MIG-1"]),
        ("1,0", ["GPU-b"]),
    ],
)
def test_a_process_sees_one_slice_in_place_of_its_card(nvml: Callable[..., None], variable: str | None, seen: list[str]) -> None:
    nvml(cut(part(1), part(2)), Card(UUID="GPU-b"))
    assert [device.uuid for device in gpu.visible({} if variable is None else {"CUDA_VISIBLE_DEVICES": variable})] == seen


@pytest.mark.parametrize("whole", [None, memory(0, 40 * GIB)])
def test_the_profile_is_the_slice_s_whatever_the_card_says(
    nvml: Callable[..., None], monkeypatch: pytest.MonkeyPatch, whole: object
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("LABKIT_PROFILE", raising=False)
    monkeypatch.delenv("LABKIT_DEVICE", raising=False)
    nvml(cut(part(1), memory_v2=whole, memory_v1=None))
    assert profile().name == "r1-qwen-1.5b"
    nvml(cut(part(1, 39), memory_v2=whole, memory_v1=None))
    assert profile().name == "r1-qwen3-8b"


def test_a_slice_is_chosen_by_its_card_only_where_it_is_alone(nvml: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvml(cut(part(1), part(2)), cut(part(3), UUID="GPU-other"))
    assert [device.uuid for device in gpu.select("MIG-2")] == ["MIG-2"]
    assert [device.uuid for device in gpu.select(1)] == ["MIG-3"]
    with pytest.raises(SettingError, match="cut into MIG slices") as failure:
        gpu.select(0)
    assert "MIG-1 (NVIDIA A100 MIG 1g.10gb), MIG-2" in failure.value.fix
    with pytest.raises(SettingError, match="one MIG slice only"):
        gpu.select(["MIG-1", "MIG-2"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1")
    assert [device.uuid for device in gpu.select(0)] == ["MIG-1"]
    with pytest.raises(SettingError, match="no GPU 'MIG-2' for this process"):
        gpu.select("MIG-2")


def test_cards_that_keep_their_uuid_back_do_not_pass_for_one(nvml: Callable[..., None]) -> None:
    first, second, third = Card(UUID=None), Card(UUID=None), Card(UUID=None)
    second.hold(7 * GIB)
    nvml(first, second, third)
    names = [device.uuid for device in gpu.devices()]
    assert len(set(names)) == 3 and gpu.memory_used(names) == [0, 7 * GIB, 0]
    assert [device.index for device in gpu.find(names[1:2])] == [1]


@pytest.mark.parametrize("name", ["NVIDIA GB10", "Orin (nvgpu)", "NVIDIA GH200 480GB", "NVIDIA Thor"])
def test_memory_that_is_the_machine_s_own_is_told_as_that(nvml: Callable[..., None], name: str) -> None:
    nvml(Card(Name=name, memory_v2=None, memory_v1=None))
    (card,) = gpu.devices()
    assert card.memory_call == "system" and card.total_bytes == psutil.virtual_memory().total and card.used_bytes > 0


def test_a_card_that_keeps_its_memory_back_is_not_said_to_be_small(nvml: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("CUDA_VISIBLE_DEVICES", "LABKIT_PROFILE", "LABKIT_DEVICE"):
        monkeypatch.delenv(variable, raising=False)
    nvml(Card(memory_v2=None, memory_v1=None))
    assert gpu.devices()[0].memory_call == ""
    with pytest.raises(ProfileError, match="does not tell how much memory NVIDIA H200 has") as failure:
        profile()
    assert "LABKIT_PROFILE" in failure.value.fix
    monkeypatch.setenv("LABKIT_PROFILE", "tiny")
    assert profile().name == "tiny"


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


def test_another_word_for_the_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_DEVICE", "cuda")
    with pytest.raises(SettingError, match="LABKIT_DEVICE is 'cuda'") as failure:
        gpu.device_kind()
    assert "unset LABKIT_DEVICE" in failure.value.fix
