"""Drawing: a recording over time, a sweep against concurrency. Figures only, no global state, no window.

Every figure is a matplotlib `Figure` with the Agg canvas, so that it can be drawn in a background thread and in any
process; `Picture` is its PNG, which shows itself in a notebook. Text in figures is English: the fonts of a rented machine
seldom have Chinese letters. Used by notebook 03 through `live` and `bench`.
"""

from __future__ import annotations

import html
import io
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .recording import GIB, Recording

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .bench import Latency, Sweep
    from .comparison import Comparison

COLOURS = ("#2f6fed", "#e07b26", "#2e9e5b", "#9b4dca", "#c9372c", "#178f9c", "#8a6d3b", "#5b6470")
GRID = "#d9dde3"
QUIET = "#5b6470"
MOST_POINTS = 600
POWER_LABEL = "power, W\n(driver's average)"
"""The driver samples only part of the time and averages: see `gpu`."""
drawing = threading.Lock()
"""matplotlib's fonts are shared between threads; one figure at a time."""


@dataclass(frozen=True)
class Picture:
    """A drawn figure: PNG bytes that show themselves in a notebook, and what they show as words."""

    png: bytes
    words: str

    def _repr_png_(self) -> bytes:
        return self.png

    def _repr_html_(self) -> str:
        import base64

        source = f"data:image/png;base64,{base64.b64encode(self.png).decode()}"
        return f'<img src="{source}" alt="{html.escape(self.words, quote=True)}" style="max-width:100%">'

    def __repr__(self) -> str:
        return f"<picture: {self.words}>"

    def save(self, path: str | Path) -> Path:
        """Write the PNG."""
        target = Path(path)
        target.write_bytes(self.png)
        return target


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
        return Picture(as_png(figure), f"{heading}; {_now(recording)}".replace("\n", ": "))


def sweep_figure(sweep: Sweep) -> Picture:
    """Three panels against concurrency: output tokens per second, TTFT and TPOT (median, with the band up to p95)."""
    with drawing:
        figure = new_figure(11.0, 3.9)
        panels = figure.subplots(1, 3)
        levels = [run.level for run in sweep.runs]
        _line(panels[0], levels, [run.output_tokens_per_s for run in sweep.runs], COLOURS[0])
        panels[0].set_title("throughput: output tokens per second", loc="left", fontsize=10)
        _latency_panel(panels[1], levels, [run.ttft for run in sweep.runs], COLOURS[1], "TTFT: ms to the first token")
        _latency_panel(panels[2], levels, [run.tpot for run in sweep.runs], COLOURS[2], "TPOT: ms for each further token")
        for axes in panels:
            _concurrency_axis(axes, levels)
            axes.set_ylim(bottom=0)
            _queue_line(axes, sweep)
        figure.supxlabel(wrapped(sweep.caption(), 170), fontsize=8, color=QUIET, x=0.01, ha="left")
        return Picture(as_png(figure), sweep.caption())


def comparison_figure(comparison: Comparison) -> Picture:
    """Engines beside each other: throughput, TTFT and TPOT against concurrency, and each start, stage by stage.

    Latencies: the line is the median, the dots are p95 and p99, on a logarithmic axis: two engines may differ tenfold.
    """
    with drawing:
        figure = new_figure(12.0, 7.0)
        upper, lower = figure.subplots(2, 2)
        for index, one in enumerate(comparison.measured):
            runs, colour = one.sweep.runs, COLOURS[index]
            levels = [run.level for run in runs]
            _line(upper[0], levels, [run.output_tokens_per_s for run in runs], colour)
            _percentile_lines(upper[1], levels, [run.ttft for run in runs], colour)
            _percentile_lines(lower[0], levels, [run.tpot for run in runs], colour)
        upper[0].set_ylim(bottom=0)
        upper[0].legend(comparison.names(), fontsize=9, frameon=False)
        for axes, title in (
            (upper[0], "throughput: output tokens per second"),
            (upper[1], "TTFT: ms to the first token (line: median, dots: p95, p99)"),
            (lower[0], "TPOT: ms for each further token (line: median, dots: p95, p99)"),
        ):
            axes.set_title(title, loc="left", fontsize=10)
            _concurrency_axis(axes, [run.level for run in comparison.measured[0].sweep.runs])
        _draw_starts(lower[1], comparison)
        figure.supxlabel(wrapped(comparison.caption(), 190), fontsize=8, color=QUIET, x=0.01, ha="left")
        return Picture(as_png(figure), comparison.caption())


def _percentile_lines(axes: Axes, levels: list[int], latencies: Sequence[Latency], colour: str) -> None:
    from matplotlib.ticker import LogLocator

    _line(axes, levels, [one.median for one in latencies], colour)
    for values, marker in (([one.p95 for one in latencies], "^"), ([one.p99 for one in latencies], "x")):
        axes.plot(levels, values, color=colour, marker=marker, markersize=5, linewidth=0, alpha=0.7)
    low, high = axes.dataLim.intervaly
    axes.set_yscale("log", subs=())
    axes.set_ylim(low / 1.4, high * 1.4)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, position: f"{value:g}")


def _draw_starts(axes: Axes, comparison: Comparison) -> None:
    """One bar for each engine: its stages, and behind it the whole and the memory it held."""
    longest = max(one.start_seconds for one in comparison.measured)
    for row, one in enumerate(comparison.measured):
        left = 0.0
        for number, (name, seconds) in enumerate(one.stages):
            axes.barh(row, seconds, left=left, height=0.42, color=COLOURS[row], alpha=0.85 if number % 2 == 0 else 0.5)
            if seconds > 0.12 * longest:
                axes.annotate(wrapped(name, 16), (left + seconds / 2, row), ha="center", va="center", fontsize=7, color="black")
            left += seconds
        total = f"{one.start_seconds:.0f} s, then {one.memory_bytes / GIB:.1f} GiB"
        axes.annotate(total, (0, row + 0.24), xytext=(2, 2), **_small("left", "bottom"))
    axes.set_yticks(range(len(comparison.measured)), comparison.names())
    axes.set_ylim(-0.5, len(comparison.measured) - 0.3)
    axes.set_xlabel("seconds")
    axes.set_title("start until the first token, and memory held", loc="left", fontsize=10)


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
            **_small("right", "bottom"),
        )
    axes.set_ylim(0, top)
    axes.set_ylabel("memory, GiB")
    axes.annotate(recording.memory_meaning, (0, 1), xycoords="axes fraction", xytext=(4, -2), **_small("left", "top"))
    if len(recording.tracks) > 1:
        axes.legend(fontsize=8, frameon=False, loc="center right")


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
        axes.annotate(f"limit {limit:.0f} W", (1, limit), xycoords=("axes fraction", "data"), xytext=(-4, 2), **_small("right", "bottom"))
    axes.set_ylim(0, max(limits) * 1.2 if limits else (None if has_power else 105))
    axes.set_ylabel(POWER_LABEL if has_power else ("GPU busy, %" if recording.kind == "gpu" else "CPU, % of all cores"))


def _draw_marks(upper: Axes, lower: Axes, recording: Recording) -> None:
    for second, text in recording.marks:
        for axes in (upper, lower):
            axes.axvline(second, color="#b0b7c1", linewidth=0.8)
        upper.annotate(text, (second, 0), xycoords=("data", "axes fraction"), xytext=(2, 4), rotation=90, **_small("left", "bottom"))


def _small(across: str, down: str) -> dict[str, Any]:
    return {"textcoords": "offset points", "fontsize": 8, "color": QUIET, "ha": across, "va": down}


def _trace(axes: Axes, seconds: Sequence[float], values: Sequence[float | None], index: int, name: str) -> None:
    """One device's line, thinned to what a picture can show, with its latest value written at the end."""
    step = max(1, len(seconds) // MOST_POINTS)
    chosen = sorted({*range(0, len(seconds), step), *([len(seconds) - 1] if seconds else [])})
    colour = COLOURS[index % len(COLOURS)]
    xs, ys = [seconds[i] for i in chosen], [float("nan") if values[i] is None else values[i] for i in chosen]
    axes.plot(xs, ys, color=colour, linewidth=1.8, label=name)
    if len([value for value in ys if value == value]) and index == 0:
        axes.fill_between(xs, 0, ys, color=colour, alpha=0.10, linewidth=0)


def _latency_panel(axes: Axes, levels: list[int], latencies: Sequence[Latency], colour: str, title: str) -> None:
    median = [one.median for one in latencies]
    _line(axes, levels, median, colour)
    axes.fill_between(levels, median, [one.p95 for one in latencies], color=colour, alpha=0.15, linewidth=0, label="up to p95")
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(["median", "up to p95"], fontsize=8, frameon=False, loc="upper left")


def _line(axes: Axes, levels: list[int], values: list[float], colour: str) -> None:
    axes.plot(levels, values, color=colour, marker="o", markersize=4, linewidth=1.8)


def _concurrency_axis(axes: Axes, levels: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(levels, [str(level) for level in levels])
    axes.minorticks_off()
    axes.set_xlabel("concurrency (requests in flight)")


def _queue_line(axes: Axes, sweep: Sweep) -> None:
    """Where the server's own limit lies, if a level went beyond it."""
    if sweep.limit and any(run.level > sweep.limit for run in sweep.runs):
        axes.axvline(sweep.limit, color=QUIET, linewidth=1, linestyle="--")
        text = f"--max-num-seqs {sweep.limit}: more wait"
        axes.annotate(text, (sweep.limit, 0), xycoords=("data", "axes fraction"), xytext=(3, 4), rotation=90, **_small("left", "bottom"))


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this kit's look, in inches, drawn without a display; draw in it while you hold `drawing`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def as_png(figure: Figure) -> bytes:
    """The finished figure as PNG, with the grid and the small labels that every picture here has."""
    for axes in figure.axes:
        axes.grid(True, color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=9, colors=QUIET)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GRID)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    return stream.getvalue()


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


def sparse_log(axes: Axes) -> None:
    """A logarithmic y axis with labels at 1, 2 and 5 only."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, position: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def wrapped(text: str, width: int) -> str:
    """`text` in lines of at most `width` characters."""
    import textwrap

    return "\n".join(textwrap.wrap(text, width, break_on_hyphens=False))
