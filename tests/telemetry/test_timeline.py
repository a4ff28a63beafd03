"""A recording drawn over time: also from odd data and in threads, and it says what it shows."""

from __future__ import annotations

import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import drawn
import pytest

from labkit.telemetry import timeline
from labkit.telemetry.recording import Recording, Track

GIB = 2**30


def recording(samples: int, power: float | None = 200.0, cards: int = 1) -> Recording:
    tracks = [Track(f"GPU {index}", 80 * GIB, 400.0 if power else None) for index in range(cards)]
    made = Recording("gpu", f"{cards} x NVIDIA A100", "in use", 0.0, tracks)
    for second in range(samples):
        made.seconds.append(float(second))
        for track in tracks:
            track.add(second % 80 * GIB, power, 50.0)
    return made


def on_cpu(*gib: float) -> Recording:
    made = Recording("cpu", "no GPU: 2 CPU cores", "PSS", 0.0, [Track("server", 64 * GIB)])
    for second, amount in enumerate(gib):
        made.seconds.append(float(second))
        made.tracks[0].add(amount * GIB, None, 75.0)
    return made


@pytest.mark.parametrize("samples", [1, 30])
def test_memory_and_power_are_lines_over_seconds_under_their_limits(samples: int) -> None:
    picture = timeline.recording_figure(recording(samples), "vLLM serving tiny")
    memory, power = drawn.panels(picture)
    assert drawn.points(memory) == [(second, second) for second in range(samples)]
    assert drawn.points(power) == [(second, 200) for second in range(samples)]
    assert list(memory.lines[1].get_ydata()) == [80, 80] and list(power.lines[1].get_ydata()) == [400, 400]
    assert drawn.notes(memory) == ["device total 80 GiB", "in use"] and drawn.notes(power) == ["limit 400 W"]
    assert (memory.get_ylabel(), power.get_ylabel()) == ("memory, GiB", timeline.POWER_LABEL) and power.get_xlabel() == "seconds"
    assert memory.get_ylim() == pytest.approx((0, 80 * 1.14)) and power.get_ylim() == (0, 480)
    assert memory.get_xlim() == power.get_xlim() == (0, max(samples - 1, 10))
    assert len(memory.collections) == len(power.collections) == 1  # the area below
    assert picture.figure is not None and picture.figure.get_suptitle() == "vLLM serving tiny\n1 x NVIDIA A100"
    assert picture.words.startswith("vLLM serving tiny: 1 x NVIDIA A100; GPU 0")


def test_before_the_first_sample_the_axes_stand_there_empty() -> None:
    memory, load = drawn.panels(timeline.recording_figure(recording(0)))
    assert drawn.points(memory) == drawn.points(load) == [] and len(memory.collections) == 0
    assert drawn.notes(memory) == ["device total 80 GiB", "in use"] and memory.get_xlim() == (0, 10)


def test_without_power_the_utilisation_is_drawn() -> None:
    _, load = drawn.panels(timeline.recording_figure(recording(3, power=None)))
    assert drawn.points(load) == [(0, 50), (1, 50), (2, 50)] and len(load.lines) == 1
    assert load.get_ylabel() == "GPU busy, %" and load.get_ylim() == (0, 105)


def test_several_cards_have_colours_and_names_and_one_limit() -> None:
    memory, power = drawn.panels(timeline.recording_figure(recording(5, cards=8)))
    assert drawn.legend(memory) == [f"GPU {index}" for index in range(8)] and drawn.legend(power) == []
    assert len({line.get_color() for line in memory.lines[:8]}) == 8 and len(memory.lines) == len(power.lines) == 9
    assert drawn.legend(drawn.panels(timeline.recording_figure(recording(5)))[0]) == []


@pytest.mark.parametrize(("most", "top"), [(0.2, 1.0), (4.0, 6.0), (32.0, 64 * 1.14)], ids=["tiny", "small", "near the total"])
def test_processes_are_drawn_large_enough_to_be_seen(most: float, top: float) -> None:
    memory, load = drawn.panels(timeline.recording_figure(on_cpu(most / 2, most)))
    assert memory.get_ylim() == pytest.approx((0, top))
    assert drawn.notes(memory) == ["machine total 64 GiB", "PSS"] and load.get_ylabel() == "CPU, % of all cores"


def test_a_value_that_is_missing_leaves_a_gap() -> None:
    shown = recording(10)
    shown.tracks[0].memory[4] = shown.tracks[0].power[9] = None
    memory, power = drawn.panels(timeline.recording_figure(shown))
    assert [second for second, value in drawn.points(memory) if math.isnan(value)] == [4]
    assert [second for second, value in drawn.points(power) if math.isnan(value)] == [9]


def test_a_long_recording_costs_no_more_points_and_keeps_its_end() -> None:
    for axes in drawn.panels(timeline.recording_figure(recording(20_000))):
        assert len(drawn.points(axes)) < 2 * timeline.MAX_POINTS and drawn.points(axes)[-1][0] == 19_999


def test_marks_are_lines_in_both_panels_with_their_text_in_the_upper() -> None:
    upper, lower = drawn.panels(timeline.recording_figure(replace(recording(10), marks=[(5.0, "ready")])))
    assert list(upper.lines[-1].get_xdata()) == list(lower.lines[-1].get_xdata()) == [5, 5]
    assert drawn.notes(upper)[-1] == "ready" and "ready" not in drawn.notes(lower)


def test_figures_can_be_drawn_in_threads() -> None:
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(lambda _: timeline.recording_figure(recording(20)).png, range(8)))
    assert len(set(pictures)) == 1


def test_pyplot_is_never_loaded() -> None:
    code = (
        "import sys\nfrom labkit.telemetry import timeline\nfrom labkit.telemetry.recording import Recording, Track\n"
        "timeline.recording_figure(Recording('gpu', 'one', 'in use', 0.0, [Track('GPU 0', 2**30)]))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_line_says_what_is_now() -> None:
    line = timeline.latest(recording(4))
    assert "3 s" in line and "3.00 GiB" in line and "200 W" in line
