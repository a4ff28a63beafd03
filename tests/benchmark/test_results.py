"""What a sweep measured: its table, its figure, its file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import drawn
import pytest

from labkit.benchmark.results import Latency, Run, Sweep
from labkit.common.errors import LabError


def run(concurrency: int, requests: int = 16, cached: float | None = None) -> Run:
    return Run(
        concurrency=concurrency,
        requests=requests,
        input_len=64,
        output_len=32,
        duration=1.0,
        request_rate=16.0,
        output_tokens_per_s=1234.0 * concurrency,
        total_tokens_per_s=1500.0,
        ttft=Latency(20.0, 19.0 * concurrency, 30.0 * concurrency, 40.0),
        tpot=Latency(2.0, 1.9, 3.0, 4.0),
        itl=Latency(2.0, 1.9, 3.0, 4.0),
        failed=0,
        seed=1,
        running=min(concurrency, 4),
        cached=cached,
    )


def sweep(*concurrencies: int, limit: int | None = 4) -> Sweep:
    return Sweep("vLLM", "0.32.0", "tiny", "1 x H200", False, "now", limit, [run(one) for one in concurrencies])


def test_tables_say_what_was_measured() -> None:
    result = Sweep("vLLM", "0.32.0", "tiny", "1 x H200", False, "now", runs=[run(1), run(8, requests=32)])
    caption = "n = 16 to 32 requests per level, 64 tokens in, 32 out, concurrency 1 to 8, prefix caching off"
    for text in (str(result), result._repr_html_()):
        assert "1,234" in text and caption in text and "vLLM 0.32.0, tiny, 1 x H200" in text
    assert result.rows()[1] == ["1", "16", "0", "16.00", "1,234", "19", "30", "1.9", "3.0", "1", "-"]
    assert result._repr_html_().count("<tr>") == 3 and str(result).splitlines()[0].startswith("concurrency  requests")


def test_a_sweep_without_levels_shows_itself() -> None:
    assert "no level has ended" in str(sweep()) and "no level has ended" in sweep()._repr_html_()


@pytest.mark.parametrize("concurrencies", [(), (1,), (1, 2, 4, 8)], ids=["no level", "one level", "beyond the limit"])
def test_three_panels_show_throughput_and_latencies_by_concurrency(concurrencies: tuple[int, ...]) -> None:
    shown = sweep(*concurrencies)
    picture = shown.figure()
    throughput, ttft, tpot = drawn.panels(picture)
    assert [drawn.title(axes).partition(":")[0] for axes in (throughput, ttft, tpot)] == ["throughput", "TTFT", "TPOT"]
    assert drawn.points(throughput) == [(one, 1234.0 * one) for one in concurrencies]
    assert drawn.points(ttft) == [(one, 19.0 * one) for one in concurrencies]
    assert drawn.points(tpot) == [(one, 1.9) for one in concurrencies]
    for axes in (throughput, ttft, tpot):
        assert axes.get_xlabel().startswith("concurrency") and axes.get_ylim()[0] == 0 and axes.get_xscale() == "log"
        assert [label.get_text() for label in axes.get_xticklabels()] == [str(one) for one in concurrencies]
    assert drawn.legend(throughput) == [] and drawn.legend(ttft) == drawn.legend(tpot) == ["median", "up to p95"]
    assert picture.words == drawn.caption(picture) == shown.caption()


def test_the_band_reaches_from_the_median_to_p95() -> None:
    (band,) = drawn.panels(sweep(1, 2).figure())[1].collections
    corners = {(float(x), float(y)) for x, y in band.get_paths()[0].vertices}
    assert corners == {(1, 19), (2, 38), (1, 30), (2, 60)}


@pytest.mark.parametrize(("limit", "highest", "line"), [(4, 8, True), (4, 4, False), (None, 8, False)])
def test_the_limit_is_drawn_only_where_a_level_went_beyond_it(limit: int | None, highest: int, line: bool) -> None:
    for axes in drawn.panels(sweep(1, highest, limit=limit).figure()):
        assert [list(one.get_xdata()) for one in axes.lines[1:]] == ([[4, 4]] if line else [])
        assert drawn.notes(axes) == (["--max-num-seqs 4: more wait"] if line else [])


def test_a_file_from_before_a_concurrency_was_called_so_still_loads(tmp_path: Path) -> None:
    before = sweep(1, 8)
    content = json.loads(before.save(tmp_path / "sweep.json").read_text())
    for level in content["runs"]:
        level["level"] = level.pop("concurrency")
    (tmp_path / "older.json").write_text(json.dumps(content))
    assert Sweep.load(tmp_path / "older.json") == Sweep.load(tmp_path / "sweep.json") == before
    assert "concurrency" in asdict(before)["runs"][0]


@pytest.mark.parametrize("text", ["", "{}", '{"runs": [{}]}'])
def test_a_file_of_another_kind_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(LabError, match="no sweep"):
        Sweep.load(tmp_path / "x.json")
