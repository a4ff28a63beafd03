"""Two engines side by side: the same load or nothing, tables and figure say what they hold for."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import drawn
import pytest
from stand_in import StandIn

from labkit.benchmark import sweeps
from labkit.benchmark.comparison import Measured, compare, measure
from labkit.benchmark.results import Latency, Run, Sweep
from labkit.common.errors import LabError, SettingError
from labkit.engines import ENGINES
from labkit.telemetry.metrics import Metrics

GIB = 2**30


def measured(engine: str, speed: float, levels: tuple[int, ...] = (1, 4, 16), requests: int = 16) -> Measured:
    runs = [
        Run(
            level,
            requests,
            64,
            32,
            1.0,
            16.0,
            speed * level,
            3 * speed * level,
            Latency(20.0, 19.0 / speed, 30.0 / speed, 400.0 / speed),
            Latency(2.0, 2.5, 3.5, 4.5),
            Latency(2.0, 2.5, 3.5, 4.5),
            0,
            1,
        )
        for level in levels
    ]
    sweep = Sweep(engine, "1.2.3", "tiny", "1 x NVIDIA H200", True, "now", runs=runs, client="vllm bench serve 0.32.0")
    return Measured(
        sweep, 30.0 * speed, (("importing", 20.0 * speed), ("loading the weights", 10.0 * speed)), int(speed * 10 * GIB), 65_536
    )


def mixed(one: Measured) -> Measured:
    return replace(one, sweep=replace(one.sweep, runs=[replace(run, spread=0.5) for run in one.sweep.runs]))


def test_both_tables_show_each_engine_at_each_level() -> None:
    shown = compare(measured("vLLM", 1.0), measured("SGLang", 1.5))
    totals, levels = shown.tables()
    assert [row[0] for row in totals] == ["engine", "vLLM", "SGLang"] and totals[2][2:5] == ["45", "15.0", "65,536"]
    assert [row[:2] for row in levels[1:3]] == [["1", "vLLM"], ["1", "SGLang"]] and len(levels) == 7
    assert levels[1][4] == "19 / 30 / 400" and levels[1][5] == "2.5 / 3.5 / 4.5"
    assert shown.ratio(16) == pytest.approx(1.5)


def test_the_caption_says_what_the_numbers_hold_for() -> None:
    caption = compare(measured("vLLM", 1.0), measured("SGLang", 1.5)).caption()
    for word in ("n = 16", "64 tokens in", "32 out", "concurrency 1, 4, 16", "vLLM 1.2.3 and SGLang 1.2.3", "bench serve 0.32.0", "only"):
        assert word in caption


def test_the_caption_says_whether_both_had_the_same_prompts() -> None:
    one, other = measured("vLLM", 1.0), measured("SGLang", 1.5)
    assert "the same for both" in compare(one, other).caption()
    other.sweep.runs[0] = replace(other.sweep.runs[0], seed=2)
    assert "per level and engine" in compare(one, other).caption()


def test_text_html_and_figure_carry_the_caption() -> None:
    shown = compare(measured("vLLM", 1.0), measured("SGLang", 1.5))
    picture = shown.figure()
    assert picture.words == drawn.caption(picture) == shown.caption()
    assert shown.caption() in str(shown) and repr(shown) == str(shown)
    assert shown._repr_html_().count("<table>") == 2 and shown._repr_html_().count(shown.caption()) == 1


def test_three_panels_show_both_engines_by_concurrency() -> None:
    throughput, ttft, tpot, _ = drawn.panels(compare(measured("vLLM", 1.0), measured("SGLang", 2.0)).figure())
    assert drawn.points(throughput, 0) == [(1, 1), (4, 4), (16, 16)] and drawn.points(throughput, 1) == [(1, 2), (4, 8), (16, 32)]
    assert drawn.legend(throughput) == ["vLLM", "SGLang"] and throughput.get_ylim()[0] == 0
    assert [drawn.title(axes).partition(":")[0] for axes in (throughput, ttft, tpot)] == ["throughput", "TTFT", "TPOT"]
    for engine, speed in enumerate((1.0, 2.0)):
        for line, milliseconds in enumerate((19.0, 30.0, 400.0)):
            assert drawn.points(ttft, 3 * engine + line) == [(level, milliseconds / speed) for level in (1, 4, 16)]
    assert [line.get_color() for line in ttft.lines[:3]] != [line.get_color() for line in ttft.lines[3:]]
    assert ttft.get_yscale() == "log" and ttft.get_ylim() == pytest.approx((9.5 / 1.4, 400 * 1.4))
    for axes in (throughput, ttft, tpot):
        assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "4", "16"]


def test_the_starts_are_bars_of_stages_with_time_and_memory() -> None:
    starts = drawn.panels(compare(measured("vLLM", 1.0), measured("SGLang", 2.0)).figure())[3]
    bars = [bar for stage in starts.containers for bar in stage]
    assert [(bar.get_x(), bar.get_width()) for bar in bars] == [(0, 20), (20, 10), (0, 40), (40, 20)]
    assert [label.get_text() for label in starts.get_yticklabels()] == ["vLLM", "SGLang"] and starts.get_xlabel() == "seconds"
    assert "30 s, then 10.0 GiB" in drawn.notes(starts) and "60 s, then 20.0 GiB" in drawn.notes(starts)
    assert "loading the\nweights" in drawn.notes(starts)


@pytest.mark.parametrize(
    "others",
    [(), (measured("SGLang", 1.0, levels=(1, 4)),), (measured("SGLang", 1.0, requests=17),), (mixed(measured("SGLang", 1.0)),)],
    ids=["only one", "other levels", "other n", "other lengths"],
)
def test_different_loads_are_not_compared(others: tuple[Measured, ...]) -> None:
    with pytest.raises(SettingError, match="load"):
        compare(measured("vLLM", 1.0), *others)


def test_of_many_short_stages_only_the_bars_are_drawn() -> None:
    one = replace(measured("vLLM", 1.0, levels=(8,)), stages=tuple((f"stage {number}", 3.0) for number in range(10)))
    *panels, starts = drawn.panels(compare(one, measured("SGLang", 2.0, levels=(8,))).figure())
    assert [drawn.points(axes)[0][0] for axes in panels] == [8, 8, 8]
    assert len(starts.containers) == 12 and not [note for note in drawn.notes(starts) if note.startswith("stage")]


@pytest.mark.parametrize(("device", "held"), [("cpu", GIB), ("gpu", 5 * GIB), ("gpu", None)])
def test_measuring_adds_start_and_memory_to_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, held: int | None
) -> None:
    sweep, seen = replace(measured("vLLM", 1.0).sweep, file=str(tmp_path / "one.json")), []
    monkeypatch.setattr(sweeps, "sweep", lambda *words, **options: seen.append((words[1:], options)) or sweep)
    server = StandIn(
        device=device,
        pids=[os.getpid()],
        ready_seconds=12.34,
        stages=[("importing", 10.0)],
        memory_held=held,
        gpus=["GPU-a", "GPU-b"],
    )
    result = measure(server, (1, 4), input_len=64, model="one")
    assert seen == [(((1, 4),), {"input_len": 64, "model": "one"})] and result.sweep is sweep
    assert (result.start_seconds, result.stages, result.kv_tokens) == (12.3, (("importing", 10.0),), None)
    assert result.memory_bytes == held and ("shared" in str(compare(result, result))) == (held is None)
    assert Measured.load(tmp_path / "one.measured.json") == result


def test_a_measurement_is_kept_whole(tmp_path: Path) -> None:
    before = measured("vLLM", 1.0)
    path = before.save(tmp_path / "deep" / "one.json")
    assert Measured.load(path) == before
    path.write_text(path.read_text().replace('"concurrency"', '"level"'))  # as it was written before
    assert Measured.load(path) == before
    (tmp_path / "bad.json").write_text('{"stages": []}')
    with pytest.raises(LabError, match="no measurement"):
        Measured.load(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("said", "flag", "command", "expected"),
    [
        (None, "--disable-radix-cache", ["sglang"], True),
        (None, "--disable-radix-cache", ["sglang", "--disable-radix-cache"], False),
        (None, "", ["other"], None),
        ("False", "", ["vllm"], False),
    ],
)
def test_whether_prefixes_are_kept_is_what_the_server_says_or_was_told(
    said: Any, flag: str, command: list[str], expected: bool | None
) -> None:
    server = StandIn(engine=replace(ENGINES["sglang"], name="x", no_prefixes=flag), command=command)
    metrics = Metrics("x", {}, {"enable_prefix_caching": said} if said else {})
    assert sweeps._keeps_prefixes(server, metrics) is expected  # type: ignore[arg-type]


def test_one_engine_twice_is_told_apart_by_its_models() -> None:
    plain, adapted = measured("vLLM", 1.0), measured("vLLM", 0.9)
    shown = compare(plain, replace(adapted, sweep=replace(adapted.sweep, model="triage")))
    totals, _ = shown.tables()
    assert [row[0] for row in totals] == ["model", "tiny", "triage"]
    assert "vLLM 1.2.3, tiny and triage" in shown.caption()
