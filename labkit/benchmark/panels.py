"""Panels that a sweep's figure and a comparison's share. They take plain numbers: concurrencies and milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..common import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def percentile_lines(
    axes: Axes, levels: list[int], median: Sequence[float], p95: Sequence[float], p99: Sequence[float], *, colour: str
) -> None:
    """The median as a line, p95 and p99 as marks, on a logarithmic axis: two engines may differ tenfold."""
    from matplotlib.ticker import LogLocator

    line(axes, levels, median, colour)
    for values, marker in ((p95, "^"), (p99, "x")):
        axes.plot(levels, values, color=colour, marker=marker, markersize=5, linewidth=0, alpha=0.7)
    low, high = axes.dataLim.intervaly
    axes.set_yscale("log", subs=())
    axes.set_ylim(low / 1.4, high * 1.4)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, position: f"{value:g}")


def latency_panel(axes: Axes, levels: list[int], median: Sequence[float], p95: Sequence[float], *, colour: str, title: str) -> None:
    """The median as a line with a band up to p95."""
    line(axes, levels, median, colour)
    axes.fill_between(levels, median, p95, color=colour, alpha=0.15, linewidth=0)
    figures.title(axes, title)
    figures.legend(axes, labels=["median", "up to p95"], loc="upper left")


def line(axes: Axes, levels: list[int], values: Sequence[float], colour: str) -> None:
    """One value for each concurrency, joined."""
    axes.plot(levels, values, color=colour, marker="o", markersize=4, linewidth=1.8)


def concurrency_axis(axes: Axes, levels: list[int]) -> None:
    """A logarithmic x axis with a label at each of `levels` and nowhere else."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(levels, [str(level) for level in levels])
    axes.minorticks_off()
    axes.set_xlabel("concurrency (requests in flight)")
