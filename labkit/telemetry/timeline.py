"""A recording drawn over time, and its latest values as a line of words. Used by notebooks 03 to 06 through `live`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..common.amounts import GIB
from ..common.figures import COLOURS, QUIET, Picture, drawing, finish, legend, new_figure, small_text
from .recording import Recording

if TYPE_CHECKING:
    from matplotlib.axes import Axes


MAX_POINTS = 600
"""Of a line: more than a picture of this width can show."""
POWER_LABEL = "power, W\n(driver's average)"
"""The driver samples only part of the time and averages: see `sampler`."""


def recording_figure(recording: Recording, title: str = "") -> Picture:
    """Memory over time, and below it power (GPU) or CPU (no GPU), with the device's limits and the recording's marks.

    Memory in GiB, power in watts, CPU in percent of all cores, time in seconds from the start of the recording.
    """
    with drawing:
        figure = new_figure(9.0, 4.6)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        _draw_memory(upper, recording)
        _draw_load(lower, recording)
        _draw_marks(upper, lower, recording)
        lower.set_xlabel("seconds")
        lower.set_xlim(0, max(recording.seconds[-1] if recording.seconds else 0, 10))
        heading = f"{title}\n{recording.machine}" if title else recording.machine
        figure.suptitle(heading, x=0.01, ha="left", fontsize=11, fontweight="bold")
        return finish(figure, f"{heading}; {_now(recording)}".replace("\n", ": "))


def _draw_memory(axes: Axes, recording: Recording) -> None:
    totals = {track.total_bytes for track in recording.tracks}
    for index, track in enumerate(recording.tracks):
        _trace(axes, recording.seconds, [None if value is None else value / GIB for value in track.memory], index, track.name)
    kind = "device total" if recording.kind == "gpu" else "machine total"
    top = _top(recording, max(totals, default=GIB)) / GIB
    for total in sorted(total / GIB for total in totals):
        axes.axhline(total, color=QUIET, linewidth=1, linestyle="--")
        axes.annotate(
            f"{kind} {total:.0f} GiB",
            (1, min(total, top * 0.9)),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 2),
            **small_text("right", "bottom"),
        )
    axes.set_ylim(0, top)
    axes.set_ylabel("memory, GiB")
    axes.annotate(recording.memory_meaning, (0, 1), xycoords="axes fraction", xytext=(4, -2), **small_text("left", "top"))
    if len(recording.tracks) > 1:
        legend(axes, loc="center right")


def _top(recording: Recording, total: float) -> float:
    """Where the memory axis ends: above the device's total; for processes not so far above them that they lie flat."""
    most = max((value for track in recording.tracks for value in track.memory if value is not None), default=0.0)
    return total * 1.14 if recording.kind == "gpu" or 4 * most > total else max(1.5 * most, GIB)


def _draw_load(axes: Axes, recording: Recording) -> None:
    """Power where the device gives it, else utilisation."""
    has_power = any(value is not None for track in recording.tracks for value in track.power)
    quantity = "power" if has_power else "utilisation"
    for index, track in enumerate(recording.tracks):
        _trace(axes, recording.seconds, getattr(track, quantity), index, track.name)
    limits = {track.power_limit_watts for track in recording.tracks if has_power and track.power_limit_watts}
    for limit in sorted(limits):
        axes.axhline(limit, color=QUIET, linewidth=1, linestyle="--")
        axes.annotate(
            f"limit {limit:.0f} W", (1, limit), xycoords=("axes fraction", "data"), xytext=(-4, 2), **small_text("right", "bottom")
        )
    axes.set_ylim(0, max(limits) * 1.2 if limits else (None if has_power else 105))
    axes.set_ylabel(POWER_LABEL if has_power else ("GPU busy, %" if recording.kind == "gpu" else "CPU, % of all cores"))


def _draw_marks(upper: Axes, lower: Axes, recording: Recording) -> None:
    for second, text in recording.marks:
        for axes in (upper, lower):
            axes.axvline(second, color="#b0b7c1", linewidth=0.8)
        upper.annotate(text, (second, 0), xycoords=("data", "axes fraction"), xytext=(2, 4), rotation=90, **small_text("left", "bottom"))


def _trace(axes: Axes, seconds: Sequence[float], values: Sequence[float | None], index: int, name: str) -> None:
    """One device's line, thinned to what a picture can show; the first one with its area shaded."""
    step = max(1, len(seconds) // MAX_POINTS)
    chosen = sorted({*range(0, len(seconds), step), *([len(seconds) - 1] if seconds else [])})
    colour = COLOURS[index % len(COLOURS)]
    xs, ys = [seconds[i] for i in chosen], [float("nan") if values[i] is None else values[i] for i in chosen]
    axes.plot(xs, ys, color=colour, linewidth=1.8, label=name)
    if index == 0 and any(value is not None for value in values):
        axes.fill_between(xs, 0, ys, color=colour, alpha=0.10, linewidth=0)


def _now(recording: Recording) -> str:
    """The latest values as words."""
    said = []
    for track in recording.tracks:
        latest = [f"{track.memory[-1] / GIB:.2f} GiB"] if track.memory and track.memory[-1] is not None else []
        latest += [f"{track.power[-1]:.0f} W"] if track.power and track.power[-1] is not None else []
        latest += [f"{track.utilisation[-1]:.0f} % busy"] if track.utilisation and track.utilisation[-1] is not None else []
        said.append(f"{track.name} {', '.join(latest)}" if latest else track.name)
    return "; ".join(said)


def latest(recording: Recording) -> str:
    """One line for a terminal: seconds, and memory, power and utilisation of every device now."""
    second = recording.seconds[-1] if recording.seconds else 0.0
    return f"{second:6.0f} s  {_now(recording)}"
