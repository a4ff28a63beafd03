"""Servers and their GPUs: whose memory is whose, who may start where, and what is judged when it is shared. NVML is a stand-in."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from nvml_stand_in import GIB, Card, fake_nvml
from stand_in import StandIn

from labkit.benchmark.sweeps import machine
from labkit.common.errors import GpuInUse, MemoryHeld, SettingError
from labkit.engines import ENGINES
from labkit.serving import held_memory, placement
from labkit.serving.expectations import expected_seconds, lateness
from labkit.serving.registry import Record, ServerFolder
from labkit.serving.server import Server

Begin = Callable[..., Server]


@pytest.fixture
def cards(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[Card]:
    """Two GPUs; what they hold is the test's to say."""
    made = [Card(UUID="GPU-a"), Card(UUID="GPU-b")]
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(made))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("LABKIT_DEVICE", "gpu")
    monkeypatch.setattr(held_memory, "RETURN_SECONDS", 3.0)
    return made


def test_the_baseline_is_that_of_its_own_gpus(begin: Begin, cards: list[Card]) -> None:
    cards[0].hold(50 * GIB)  # another user's
    server = begin(gpus=("GPU-b",)).wait(30)
    assert (server.gpus, server.memory_baseline) == (["GPU-b"], [0])
    cards[0].hold(90 * GIB)
    cards[1].hold(20 * GIB)
    threading.Timer(0.5, cards[1].hold, [0]).start()  # the driver takes its time
    report = server.stop()
    assert (report.memory_before, report.memory_after, report.baseline, report.returned) == (20 * GIB, 0, 0, True)


def test_how_long_a_start_takes_is_remembered_for_its_card_only(begin: Begin, cards: list[Card]) -> None:
    """A home on a shared disk outlives the card."""
    cards[1].answers["Name"] = "NVIDIA GeForce RTX 3090"
    server = begin(gpus=("GPU-a",)).wait(30)
    entry = ServerFolder(server.name).record
    assert entry is not None
    engine = server.engine
    took = dict(entry.stages)
    assert expected_seconds(engine, entry) == [took.get(stage.name, 0.0) for stage in engine.stages]
    other = dataclasses.replace(entry, gpus=["GPU-b"])
    assert expected_seconds(engine, other) == [stage.gpu_seconds for stage in engine.stages], "nothing is known of that card"


@pytest.mark.parametrize(("elapsed", "expected", "late"), [(149.0, 150.0, False), (214.0, 150.0, True), (5.0, 0.0, False)])
def test_a_start_that_takes_longer_says_so(elapsed: float, expected: float, late: bool) -> None:
    assert ("longer than expected" in lateness(elapsed, expected)) is late


def test_memory_that_does_not_come_back_stops_the_next_start_on_that_gpu_only(begin: Begin, cards: list[Card], home: Path) -> None:
    server = begin(gpus=("GPU-a",)).wait(30)
    cards[0].hold(5 * GIB)
    report = server.stop()
    assert not report.returned and "NOT returned (it was 0.0 GiB" in str(report)
    with pytest.raises(MemoryHeld, match=r"5\.0 GiB .* a process outside this kit"):
        begin(gpus=("GPU-a",))
    other = begin(gpus=("GPU-b",)).wait(30)
    assert other.stop().returned and (home / "state" / "memory-held.json").exists(), "what is held on the first is still remembered"
    cards[0].hold(0)
    assert begin(gpus=("GPU-a",)).wait(30).state == "ready" and not (home / "state" / "memory-held.json").exists()


def crash(server: Server, card: Card) -> None:
    """The engine dies with 20 GiB on its card."""
    card.hold(20 * GIB)
    os.kill(server.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while server.alive and time.monotonic() < deadline:
        time.sleep(0.05)


def test_what_a_crash_leaves_for_a_moment_is_nobody_s_baseline(begin: Begin, cards: list[Card]) -> None:
    crash(begin(gpus=("GPU-a",)).wait(30), cards[0])
    threading.Timer(1.0, cards[0].hold, [0]).start()
    assert begin(name="next", gpus=("GPU-a",)).memory_baseline == [0]


def test_what_a_crash_leaves_for_good_stops_the_next_start(begin: Begin, cards: list[Card]) -> None:
    crash(begin(gpus=("GPU-a",)).wait(30), cards[0])
    with pytest.raises(MemoryHeld, match=r"20\.0 GiB"):
        begin(name="next", gpus=("GPU-a",))


def test_a_note_that_an_older_labkit_wrote_is_read(begin: Begin, cards: list[Card], home: Path) -> None:
    (home / "state").mkdir()
    (home / "state" / "memory-held.json").write_text(json.dumps({"baseline": [0, 0]}))
    cards[1].hold(3 * GIB)
    with pytest.raises(MemoryHeld, match=r"3\.0 GiB"):
        begin(gpus=("GPU-b",))
    assert begin(gpus=("GPU-a",)).wait(30).state == "ready"


def test_a_server_without_gpu_is_not_asked_for_the_memory_that_an_engine_took_meanwhile(begin: Begin, cards: list[Card]) -> None:
    """Open-WebUI is often started first and stopped while an engine holds the card."""
    page = begin().wait(30)
    cards[0].hold(100 * GIB)
    assert page.stop().returned and begin().wait(30).state == "ready"


def test_two_servers_on_two_gpus_do_not_see_each_other(begin: Begin, cards: list[Card]) -> None:
    first = begin(name="first", gpus=("GPU-a",)).wait(30)
    cards[0].hold(60 * GIB)
    second = begin(name="second", gpus=("GPU-b",)).wait(30)
    cards[1].hold(70 * GIB)
    cards[0].hold(0)
    assert first.stop().returned, "what the second holds is not the first one's"
    cards[1].hold(0)
    assert second.stop().returned


def test_a_gpu_that_another_server_uses_is_refused_with_its_name(begin: Begin, cards: list[Card]) -> None:
    begin(name="first", gpus=("GPU-a",)).wait(30)
    with pytest.raises(GpuInUse, match=r"GPU 0 \(NVIDIA H200\) is used by first") as failure:
        begin(name="second", gpus=("GPU-a",))
    assert 'Free: gpus="1" (./lab up --gpus 1).' in failure.value.fix and "share_gpu=True" in failure.value.fix
    with pytest.raises(GpuInUse) as failure:
        begin(name="second", gpus=("GPU-a", "GPU-b"))
    assert "Free:" not in failure.value.fix, "one is not enough"
    assert ServerFolder("second").record is None, "nothing was started or written"
    begin(name="third", gpus=("GPU-b",)).wait(30)
    with pytest.raises(GpuInUse, match=r"GPU 0 .*, GPU 1 .* is used by first, third") as failure:
        begin(name="second", gpus=("GPU-a", "GPU-b"))
    assert "Free:" not in failure.value.fix


def test_where_two_share_a_gpu_the_last_one_is_judged_for_both(begin: Begin, cards: list[Card]) -> None:
    cards[0].hold(1 * GIB)
    first = begin(name="first", gpus=("GPU-a",)).wait(30)
    cards[0].hold(21 * GIB)
    second = begin(name="second", gpus=("GPU-a",), share_gpu=True).wait(30)
    assert second.memory_baseline == [1 * GIB], "before the first of them"
    cards[0].hold(41 * GIB)
    assert first.memory_held is None and second.memory_held is None, "what is whose cannot be told"
    report = first.stop()
    assert report.returned and report.shared == ("second",) and "shared with second, judged when the last one stops" in str(report)
    cards[0].hold(6 * GIB)  # five of theirs did not come back
    assert not second.stop().returned
    cards[0].hold(1 * GIB)
    assert begin(name="first", gpus=("GPU-a",)).wait(30).state == "ready"


def test_a_server_of_an_older_labkit_counts_for_the_first_gpus(begin: Begin, cards: list[Card], home: Path) -> None:
    begin(name="old", gpus=("GPU-a",)).wait(30)
    file = home / "state" / "servers" / "old" / "server.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in record.items() if name not in ("gpus", "format")}))
    with pytest.raises(GpuInUse, match="used by old"):
        begin(name="new", gpus=("GPU-a",))
    assert begin(name="new", gpus=("GPU-b",)).wait(30).state == "ready"


@pytest.mark.parametrize(
    ("engine", "argv", "size"),
    [
        ("vllm", [], 1),
        ("vllm", ["--tensor-parallel-size", "2"], 2),
        ("vllm", ["--tensor-parallel-size=2", "-pp", "2"], 4),
        ("vllm", ["--tensor_parallel_size=2", "-pp=2"], 4),
        ("vllm", ["-tp", "2", "--data-parallel-size", "4"], 8),
        ("vllm", ["--tensor-parallel-size", "1", "--tensor-parallel-size", "4"], 4),
        ("sglang", ["--tp", "2", "--dp-size=2"], 4),
        ("sglang", ["--tensor-parallel-size", "2"], 2),
        ("sglang", ["--tp", "4", "--dp", "4", "--enable-dp-attention"], 4),
        ("sglang", ["--tp-size=8", "--dp-size", "2", "--enable_dp_attention", "--pp", "2"], 16),
        ("vllm", ["-tp", "2", "--data-parallel-size", "2", "--enable-expert-parallel"], 4),
    ],
)
def test_how_many_gpus_the_flags_ask_for(engine: str, argv: list[str], size: int) -> None:
    assert placement._size(ENGINES[engine], argv) == size


def test_a_record_without_baseline_has_nothing_to_return() -> None:
    record = Record("x", "vllm", [], "", 1, "m", "", "", "", "", "lab", "cpu")
    assert held_memory.baseline_of(record) == {} and held_memory.returned({})


@pytest.mark.parametrize(
    ("argv", "gpus", "uuids"),
    [
        (["--base-gpu-id", "2"], None, ["GPU-2"]),
        (["--base-gpu-id=1", "--tp", "2"], None, ["GPU-1", "GPU-2"]),
        (["--base-gpu-id", "0", "--gpu-id-step", "2", "--tp", "2"], None, ["GPU-0", "GPU-2"]),
        (["--base-gpu-id", "1"], [3, 2], ["GPU-2"]),
        (["--tp", "2", "--base-gpu-id", "3"], None, ["GPU-3"]),
    ],
)
def test_sglang_s_first_gpu_counts(
    home: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], gpus: list[int] | None, uuids: list[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([Card(UUID=f"GPU-{index}") for index in range(4)]))
    assert placement.place(ENGINES["sglang"], argv, "gpu", gpus).gpus == uuids
    with pytest.raises(SettingError, match="the server sees 4 GPUs"):
        placement.place(ENGINES["sglang"], ["--base-gpu-id", "4"], "gpu", None)


PART = {"Name": "NVIDIA A100 MIG 1g.10gb", "CudaComputeCapability": None}


def cut_card(number: int) -> Card:
    """A card of two slices."""
    parts = (Card(UUID=f"MIG-{number}a", **PART), Card(UUID=f"MIG-{number}b", **PART))
    return Card(UUID=f"GPU-{number}", slices=parts)


@pytest.mark.parametrize(
    ("variable", "gpus", "uuids", "shown"),
    [
        (None, None, ["MIG-0a"], None),
        (None, "MIG-0b", ["MIG-0b"], "MIG-0b"),
        (None, "MIG-1a", ["MIG-1a"], "1"),
        ("MIG-0a", None, ["MIG-0a"], "0"),
        ("MIG-1b", None, ["MIG-1b"], "MIG-1b"),
        ("GPU-2", None, ["GPU-2"], "2"),
        ("GPU-2,GPU-3", None, ["GPU-2"], "2,3"),
        ("2,3", None, ["GPU-2"], None),
    ],
)
def test_uuids_become_numbers_where_a_number_will_do(
    home: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None, gpus: str | None, uuids: list[str], shown: str | None
) -> None:
    """vLLM 0.19.1 reads numbers only."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([cut_card(0), cut_card(1), Card(UUID="GPU-2"), Card(UUID="GPU-3")]))
    placed = placement.place(ENGINES["vllm"], [], "gpu", gpus)
    assert placed.gpus == uuids and placed.environment.get("CUDA_VISIBLE_DEVICES") == shown


def test_a_slice_and_its_card_are_not_two(begin: Begin, cards: list[Card], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([cut_card(0), Card(UUID="GPU-1")]))
    begin(name="first", gpus=("MIG-0a",)).wait(30)
    for used in ("MIG-0a", "GPU-0"):
        with pytest.raises(GpuInUse, match="is used by first"):
            begin(name="second", gpus=(used,))
    assert begin(name="second", gpus=("MIG-0b",)).wait(30).stop().returned, "another slice is another GPU"
    assert begin(name="third", gpus=("GPU-1",)).wait(30).state == "ready"


def test_memory_that_is_not_told_is_not_said_to_have_come_back(begin: Begin, cards: list[Card], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([Card(UUID="GPU-a", memory_v1=None, memory_v2=None)]))
    report = begin(gpus=("GPU-a",)).wait(30).stop()
    assert not report.memory_told and "whether it came back is not known" in str(report) and "returned" not in str(report)


def test_a_benchmark_names_the_slice_that_it_ran_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([cut_card(0), Card(UUID="GPU-1")]))
    assert machine(StandIn(1, gpus=["MIG-0b"])) == "1 x NVIDIA A100 MIG 1g.10gb"
    assert machine(StandIn(1, gpus=["GPU-1"])) == "1 x NVIDIA H200"
