"""What `lora.compare` found, as a result that judges, shows and draws itself: a merged model against base plus adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..common import figures, tables
from ..common.figures import COLOURS, Picture
from ..evaluation import scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..evaluation.scores import Score, ScoreTable


ENOUGH = 0.99
"""Top-1 agreement that a sound merge reaches; the rest are near ties."""
ONE_ROUNDING = 0.5
SLACK = 0.001
"""Units in the last place: base + delta is itself rounded to fp32 before it is rounded to the model's type."""


@dataclass(frozen=True)
class Kind:
    """All tensors of one kind of module ("q_proj"): how many, how many changed, elements, elements changed.

    `largest` is the largest change of a weight; `ulps` the largest distance of a merged weight from base + delta summed in fp32,
    in units in the last place (0.5 is correct rounding), None where the adapter adds nothing or DoRA rescales.
    """

    kind: str
    tensors: int
    changed: int
    elements: int
    elements_changed: int
    largest: float
    ulps: float | None


@dataclass(frozen=True)
class Forced:
    """Two models given the same replies token by token. All over `tokens` positions; logits as the models give them.

    `agreement` is the share where both put the same token first, `largest` and `mean` the absolute difference of logits,
    `divergence` KL(injected || merged) in nats per token. `counts` is the histogram of each token's largest difference, with a bin
    below the first of `edges` and one above the last. `apart` are the widest of the disagreements as text, `widest_margin` how
    far the first model's logit was ahead in the widest.
    """

    tokens: int
    agreement: float
    largest: float
    mean: float
    divergence: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    widest_margin: float
    apart: tuple[Mapping[str, Any], ...]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        return cls(**{**content, **{name: tuple(content[name]) for name in ("edges", "counts", "apart")}})


@dataclass(frozen=True, repr=False)
class Proof:
    """What `compare` found; shows itself as tables and words. True when the merge holds (`lines` says why not): no weight further
    than one unit in the last place from the exact sum, nothing else changed, the same first token at 99 % of the positions, in
    fp32 arithmetic where that was asked: in their own type models that are unsure (little trained) have more near ties than that.

    `forced` is in the models' own type, `exact` the same in fp32 arithmetic (None for models that are too large for it),
    `base_agreement` the agreement of the base without the adapter with the injected one: what it would be had nothing been
    merged. `astray` names tensors that changed though the adapter does not touch them, or that one folder lacks. `scores` holds,
    for each temperature, the task's score injected and merged.
    """

    base: Path
    adapter: Path
    merged: Path
    dtype: str
    device: str
    weights: tuple[Kind, ...]
    astray: tuple[str, ...]
    forced: Forced
    exact: Forced | None
    base_agreement: float
    scores: tuple[Score, ...]
    seconds: float

    @property
    def agreement(self) -> float:
        """Share of reply tokens where injected and merged put the same token first."""
        return self.forced.agreement

    @property
    def share_changed(self) -> float:
        """Share of all weights that the merge changed."""
        return sum(one.elements_changed for one in self.weights) / max(1, sum(one.elements for one in self.weights))

    @property
    def ulps(self) -> float | None:
        """The largest distance of a merged weight from the exact sum, in units in the last place."""
        return max((one.ulps for one in self.weights if one.ulps is not None), default=None)

    def __bool__(self) -> bool:
        return not self._faults()

    def _faults(self) -> list[str]:
        faults = []
        if self.astray:
            faults.append(f"{len(self.astray)} tensors differ that the adapter does not touch, first {self.astray[0]}")
        if self.ulps is not None and self.ulps > 1 + SLACK:
            faults.append(f"a weight is {self.ulps:.1f} units in the last place from the exact sum")
        sharpest = self.exact or self.forced
        if sharpest.agreement < ENOUGH:
            faults.append(f"the first token agrees at {sharpest.agreement:.2%} of the positions only")
        return faults

    def lines(self) -> list[str]:
        """Three short lines that read the same for every sound merge."""
        faults = self._faults()
        rounding = (
            "not held against the exact sum" if self.ulps is None else f"within {'one rounding' if self._rounded_once() else 'one unit'}"
        )
        return [f"weights: {rounding}", f"same first token: {self._agreement()}", f"merge: {'; '.join(faults) or 'holds'}"]

    def _agreement(self) -> str:
        if self.agreement >= ENOUGH:
            return f"at least {ENOUGH:.0%}"
        return f"{self.agreement:.2%}" + (f" ({self.exact.agreement:.2%} in fp32 arithmetic)" if self.exact else "")

    def _rounded_once(self) -> bool:
        return self.ulps is not None and self.ulps <= ONE_ROUNDING + SLACK

    def explanation(self) -> str:
        """Why merged and injected are not equal bit for bit, with this comparison's numbers."""
        forced, parts = self.forced, []
        parts.append(
            f"Injected, each layer adds the adapter's part (computed in fp32) to its own {self.dtype} result, in every forward pass. "
            f"Merged, base + delta was rounded to {self.dtype} once and nothing is added later"
            + (f"; no weight is further than {self.ulps:.2f} units in the last place from the exact sum." if self.ulps is not None else ".")
        )
        parts.append(
            f"So the roundings fall elsewhere: logits differ by {forced.mean:.2g} on average and {forced.largest:.2g} at most, and "
            f"the same token comes first at {forced.agreement:.2%} of {forced.tokens:,} positions "
            f"(the base alone: {self.base_agreement:.2%})."
        )
        if forced.apart:
            parts.append(f"Where it does not, the injected model's two choices were at most {forced.widest_margin:.2g} apart: near ties.")
        if self.exact:
            parts.append(
                f"In fp32 arithmetic only the rounding of the merged weights is left: {self.exact.mean:.2g} on average, "
                f"{self.exact.largest:.2g} at most, the same first token at {self.exact.agreement:.2%}."
            )
        return " ".join(parts)

    def rows(self) -> list[list[str]]:
        """The table of weights as text, heading first."""
        heading = ["module", "tensors changed", "weights changed", "largest change", "from exact, ulp"]
        return [heading, *(_row(one) for one in self.weights if one.changed or one.ulps is not None), self._rest()]

    def _rest(self) -> list[str]:
        still = [one for one in self.weights if not one.changed and one.ulps is None]
        return ["all others", f"0 of {sum(one.tensors for one in still)}", "0.0 %", "0", "-"]

    def figure(self) -> Picture:
        """Differences of logits, weights changed by kind of module, and the task's scores."""
        return proof_figure(self)

    def _scores(self) -> ScoreTable | None:
        return scores.table(*self.scores) if self.scores else None

    def __str__(self) -> str:
        scores = [str(table)] if (table := self._scores()) else []
        return "\n\n".join([tables.plain(self.rows()), *scores, self.explanation(), "\n".join(self.lines())])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        table = self._scores()
        scores = table._repr_html_() if table else ""
        caption = f"{self.share_changed:.1%} of all weights changed; {self.device}, {self.seconds:.0f} s"
        words = "".join(f"<p>{tables.escaped(text)}</p>" for text in (self.explanation(), "; ".join(self.lines())))
        return tables.as_html(self.rows(), caption) + scores + words


def _row(one: Kind) -> list[str]:
    return [
        one.kind,
        f"{one.changed} of {one.tensors}",
        f"{one.elements_changed / max(1, one.elements):.1%}",
        f"{one.largest:.2g}",
        "-" if one.ulps is None else f"{one.ulps:.3f}",
    ]


def proof_figure(comparison: Proof) -> Picture:
    """Three panels: how far the logits of each token lie apart, which weights changed, and the task's scores if it was played."""
    with figures.drawing:
        figure = figures.new_figure(12.0, 3.9)
        panels = figure.subplots(1, 3 if comparison.scores else 2)
        _draw_differences(panels[0], comparison)
        _draw_weights(panels[1], comparison)
        if comparison.scores:
            _draw_scores(panels[2], comparison)
        words = "; ".join(comparison.lines())
        figure.supxlabel(figures.wrapped(comparison.explanation(), 190), fontsize=8, color=figures.QUIET, x=0.01, ha="left")
        return figures.finish(figure, words)


def _draw_differences(axes: Axes, comparison: Proof) -> None:
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


def _draw_weights(axes: Axes, comparison: Proof) -> None:
    rows = [one for one in comparison.weights if one.changed]
    axes.barh([one.kind for one in rows], [100 * one.elements_changed / one.elements for one in rows], color=COLOURS[0], height=0.6)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of the weights")
    axes.set_title(f"changed by the merge: {comparison.share_changed:.1%} of all", loc="left", fontsize=10)


def _draw_scores(axes: Axes, comparison: Proof) -> None:
    """Hit rate and compliance, injected beside merged, for each temperature."""
    groups = [(score.label, [score.hit_rate, score.compliance]) for score in comparison.scores]
    figures.draw_bars(axes, ["hit rate", "JSON compliance"], groups)
    axes.set_title(f"the task, % of {len(comparison.scores[0].cases)} incidents", loc="left", fontsize=10)
    axes.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
