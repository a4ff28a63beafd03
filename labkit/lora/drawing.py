"""Draws what notebook 06 shows of an adapter: how it was trained, and merged against injected. In the manner of `plots`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import plots, triage
from ..plots import COLOURS, Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..training import Training
    from .comparing import Comparison, Forced

RUNNING = 10
"""Steps over which the loss is averaged for the thick line."""


def training_figure(training: Training) -> Picture:
    """The loss in nats per token at every step (thin) and its running mean (thick), logarithmic."""
    with plots.drawing:
        figure = plots.new_figure(7.5, 3.4)
        axes = figure.subplots()
        losses = training.losses
        steps = range(1, len(losses) + 1)
        means = [sum(losses[max(0, end - RUNNING) : end]) / min(end, RUNNING) for end in steps]
        axes.plot(steps, losses, color=COLOURS[0], linewidth=0.8, alpha=0.4)
        axes.plot(steps, means, color=COLOURS[0], linewidth=2)
        plots.sparse_log(axes)
        axes.set_xlabel(f"steps of {training.settings['batch']} conversations")
        axes.set_title("loss: nats per token of the reply", loc="left", fontsize=10)
        words = str(training)
        figure.supxlabel(plots.wrapped(words, 120), fontsize=8, color=plots.QUIET, x=0.01, ha="left")
        return Picture(plots.as_png(figure), words)


def comparison_figure(comparison: Comparison) -> Picture:
    """Three panels: how far the logits of each token lie apart, which weights changed, and the task's scores if it was played."""
    with plots.drawing:
        figure = plots.new_figure(12.0, 3.9)
        panels = figure.subplots(1, 3 if comparison.scores else 2)
        _draw_differences(panels[0], comparison)
        _draw_weights(panels[1], comparison)
        if comparison.scores:
            _draw_scores(panels[2], comparison)
        words = "; ".join(comparison.lines())
        figure.supxlabel(plots.wrapped(comparison.explanation(), 190), fontsize=8, color=plots.QUIET, x=0.01, ha="left")
        return Picture(plots.as_png(figure), words)


def _draw_differences(axes: Axes, comparison: Comparison) -> None:
    """One histogram in the models' type, one in fp32 arithmetic where there is one; the same bins."""
    shown = [(comparison.dtype, comparison.forced)] + ([("float32", comparison.exact)] if comparison.exact else [])
    for number, (name, forced) in enumerate(shown):
        lefts, widths, counts = _bins(forced)
        axes.bar(lefts, counts, widths, align="edge", color=COLOURS[number], alpha=0.75, label=f"computed in {name}")
    axes.set_xscale("log")
    axes.set_xlabel("largest difference of a token's logits")
    axes.set_title("merged against injected: tokens", loc="left", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="upper left")


def _bins(forced: Forced) -> tuple[list[float], list[float], list[int]]:
    """Left edges, widths and counts of the bins that hold something; what lies below the first edge counts in the first bin."""
    edges = (*forced.edges, forced.edges[-1] * 10)
    counts = [forced.counts[0] + forced.counts[1], *forced.counts[2:]]
    filled = [number for number, count in enumerate(counts) if count]
    return [edges[n] for n in filled], [edges[n + 1] - edges[n] for n in filled], [counts[n] for n in filled]


def _draw_weights(axes: Axes, comparison: Comparison) -> None:
    rows = [one for one in comparison.weights if one.changed]
    axes.barh([one.kind for one in rows], [100 * one.elements_changed / one.elements for one in rows], color=COLOURS[0], height=0.6)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of the weights")
    axes.set_title(f"changed by the merge: {comparison.share_changed:.1%} of all", loc="left", fontsize=10)


def _draw_scores(axes: Axes, comparison: Comparison) -> None:
    """Hit rate and compliance, injected beside merged, for each temperature."""
    groups = [(score.label, [score.hit_rate, score.compliance]) for score in comparison.scores]
    triage.draw_bars(axes, ["hit rate", "JSON compliance"], groups)
    axes.set_title(f"the task, % of {len(comparison.scores[0].cases)} incidents", loc="left", fontsize=10)
    axes.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
