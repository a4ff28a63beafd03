"""Figures: they are drawn, also from odd data and in threads, and say what they show."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from labkit.benchmark import results
from labkit.benchmark.results import Latency, Run, Sweep
from labkit.common import figures
from labkit.telemetry import timeline
from labkit.telemetry.recording import Recording, Track

GIB = 2**30
PNG = b"\x89PNG\r\n\x1a\n"


def recording(samples: int, power: float | None = 200.0, cards: int = 1) -> Recording:
    tracks = [Track(f"GPU {index}", 80 * GIB, 400.0 if power else None) for index in range(cards)]
    found = Recording("gpu", f"{cards} x NVIDIA A100", "in use", 0.0, tracks)
    for second in range(samples):
        found.seconds.append(float(second))
        for track in tracks:
            track.add(second % 80 * GIB, power, 50.0)
    return found


def sweep(*waiting: int, limit: int | None = 4) -> Sweep:
    latency = Latency(20.0, 19.0, 30.0, 40.0)
    runs = [
        Run(
            2**index,
            16,
            64,
            32,
            1.0,
            16.0,
            500.0 * (index + 1),
            1500.0,
            latency,
            latency,
            latency,
            0,
            1,
            running=min(2**index, 4),
            waiting=count,
        )
        for index, count in enumerate(waiting)
    ]
    return Sweep("vLLM", "0.32.0", "tiny", "CPU (2 cores)", True, "now", limit, runs)


@pytest.mark.parametrize(
    "shown",
    [recording(0), recording(1), recording(30), recording(3, power=None), recording(30, cards=8)],
    ids=["nothing yet", "one sample", "usual", "no power", "eight cards"],
)
def test_a_recording_is_drawn_whatever_it_holds(shown: Recording) -> None:
    picture = timeline.recording_figure(shown, "vLLM serving tiny")
    assert picture.png.startswith(PNG)
    assert "vLLM serving tiny" in picture.words and shown.machine in picture.words


def test_a_value_that_is_missing_leaves_a_gap_and_no_error() -> None:
    shown = recording(10)
    shown.tracks[0].memory[4] = shown.tracks[0].power[9] = None
    assert timeline.recording_figure(shown).png.startswith(PNG)


def test_a_long_recording_costs_no_more_points() -> None:
    from matplotlib.axes import Axes

    drawn: list[int] = []
    original = Axes.plot
    Axes.plot = lambda self, xs, *rest, **options: (drawn.append(len(xs)), original(self, xs, *rest, **options))[1]  # type: ignore[method-assign]
    try:
        timeline.recording_figure(recording(20_000))
    finally:
        Axes.plot = original  # type: ignore[method-assign]
    assert max(drawn) < 2 * timeline.MOST_POINTS


def test_marks_change_the_picture() -> None:
    shown = recording(10)
    marked = replace(shown, marks=[(5.0, "ready")])
    assert timeline.recording_figure(shown).png != timeline.recording_figure(marked).png


def test_figures_can_be_drawn_in_threads() -> None:
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(lambda _: timeline.recording_figure(recording(20)).png, range(8)))
    assert len(set(pictures)) == 1


def test_pyplot_is_never_loaded() -> None:
    import subprocess

    code = "import sys; from labkit.telemetry.timeline import recording_figure; from tests.telemetry.test_timeline import *; recording_figure(recording(5)); assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("waiting", [(0,), (0, 0, 0), (0, 0, 0, 4, 12), ()], ids=["one level", "no queue", "queue", "no level"])
def test_a_sweep_is_drawn_with_its_caption(waiting: tuple[int, ...]) -> None:
    picture = results.sweep_figure(sweep(*waiting))
    assert picture.png.startswith(PNG) and "vLLM 0.32.0, tiny" in picture.words


def test_the_limit_is_drawn_only_where_a_level_went_beyond_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sweep, "caption", lambda self: "")
    beyond, without = results.sweep_figure(sweep(0, 0, 0, 4)), results.sweep_figure(sweep(0, 0, 0, 4, limit=None))
    within, bare = results.sweep_figure(sweep(0, 0)), results.sweep_figure(sweep(0, 0, limit=None))
    assert beyond.png != without.png and within.png == bare.png


def test_a_picture_shows_itself_and_can_be_saved(tmp_path: Path) -> None:
    picture = figures.Picture(PNG, 'a "picture" of <this>')
    assert picture._repr_png_() == PNG
    assert 'alt="a &quot;picture&quot; of &lt;this&gt;"' in picture._repr_html_()
    assert picture.save(tmp_path / "x.png").read_bytes() == PNG


def test_one_line_says_what_is_now() -> None:
    line = timeline.latest(recording(4))
    assert "3 s" in line and "3.00 GiB" in line and "200 W" in line
