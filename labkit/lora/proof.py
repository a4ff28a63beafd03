"""What `lora.compare` found, as a result that judges, shows and draws itself: a merged model against base plus adapter.

Covers: the verdict, its tables, words and figure. Does not cover: measuring (`workers.proof_worker`). Used by notebook 06.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..common import figures, tables
from ..common.figures import COLOURS, Picture
from ..evaluation import scores
from ..workers.proof_job import ModelDifference, ModuleKind, TeacherForced

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..evaluation.scores import Score, ScoreTable


MIN_AGREEMENT = 0.99
"""Top-1 agreement that a sound merge reaches; the rest are near ties."""
ONE_ROUNDING = 0.5
SLACK = 0.001
"""Units in the last place: base + delta is itself rounded to fp32 before it is rounded to the model's type."""


@dataclass(frozen=True, repr=False)
class Proof(ModelDifference):
    """What `compare` found; shows itself as tables and words. True when the merge holds (`lines` says why not): no weight further
    than one unit in the last place from the exact sum, nothing else changed, the same first token at 99 % of the positions, in
    fp32 arithmetic where that was asked: in their own type models that are unsure (little trained) have more near ties than that.

    Beside what was measured, `scores` holds, for each temperature, the task's score injected and merged.
    """

    base: Path
    adapter: Path
    merged: Path
    scores: tuple[Score, ...]
    seconds: float

    @property
    def agreement(self) -> float:
        """Share of reply tokens where injected and merged put the same token first."""
        return self.forced.agreement

    @property
    def share_changed(self) -> float:
        """Share of all weights that the merge changed."""
        return sum(row.elements_changed for row in self.weights) / max(1, sum(row.elements for row in self.weights))

    @property
    def ulps(self) -> float | None:
        """The largest distance of a merged weight from the exact sum, in units in the last place."""
        return max((row.ulps for row in self.weights if row.ulps is not None), default=None)

    def __bool__(self) -> bool:
        return not self._faults()

    def _faults(self) -> list[str]:
        faults = []
        if self.astray:
            faults.append(f"{len(self.astray)} tensors differ that the adapter does not touch, first {self.astray[0]}")
        if self.ulps is not None and self.far:
            faults.append(f"a weight is {_count(self.ulps)} units in the last place from the exact sum")
        sharpest = self.exact or self.forced
        if sharpest.agreement < MIN_AGREEMENT:
            faults.append(f"the first token agrees at {sharpest.agreement:.2%} of the positions only")
        return faults

    def lines(self) -> list[str]:
        """Three short lines that read the same for every sound merge."""
        faults = self._faults()
        if self.ulps is None:
            rounding = "not held against the exact sum"
        elif self.far:
            rounding = f"up to {_count(self.ulps)} units in the last place from the exact sum"
        else:
            rounding = f"within {'one rounding' if self._rounded_once() else 'one unit'}"
        return [f"weights: {rounding}", f"same first token: {self._agreement()}", f"merge: {'; '.join(faults) or 'holds'}"]

    def _agreement(self) -> str:
        if self.agreement >= MIN_AGREEMENT:
            return f"at least {MIN_AGREEMENT:.0%}"
        return f"{self.agreement:.2%}" + (f" ({self.exact.agreement:.2%} in fp32 arithmetic)" if self.exact else "")

    @property
    def far(self) -> bool:
        """Whether a weight is further from the exact sum than roundings lead: then it is another number."""
        return self.ulps is not None and self.ulps > 1 + SLACK

    def _rounded_once(self) -> bool:
        return self.ulps is not None and self.ulps <= ONE_ROUNDING + SLACK

    def explanation(self) -> str:
        """Why merged and injected are not equal bit for bit, with this proof's numbers; for a merge that does not hold, that they tell."""
        forced = self.forced
        bound = (
            ""
            if self.ulps is None or self.far
            else f"; no weight is further than {self.ulps:.2f} units in the last place from the exact sum"
        )
        agree = (
            f"logits differ by {forced.mean:.2g} on average and {forced.largest:.2g} at most, and the same token comes first at "
            f"{forced.agreement:.2%} of {forced.tokens:,} positions (the base alone: {self.base_agreement:.2%})."
        )
        parts = [
            f"Injected, each layer adds the adapter's part (computed in fp32) to its own {self.dtype} result, in every forward pass. "
            f"Merged, base + delta was rounded to {self.dtype} once and nothing is added later{bound}.",
        ]
        if not self:
            parts.append(f"Roundings do not explain what was found here: {'; '.join(self._faults())}. {agree[0].upper()}{agree[1:]}")
            parts.append(
                "The merged folder is not base plus adapter: made from other files, or one tensor used in two places (embedding and head), "
                "or not the adapter that was compared."
            )
            return " ".join(parts)
        parts.append(f"So the roundings fall elsewhere: {agree}")
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
        return [heading, *(_cells(row) for row in self.weights if row.changed or row.ulps is not None), self._rest()]

    def _rest(self) -> list[str]:
        unchanged = [row for row in self.weights if not row.changed and row.ulps is None]
        return ["all others", f"0 of {sum(row.tensors for row in unchanged)}", "0.0 %", "0", "-"]

    def figure(self) -> Picture:
        """Three panels: how far the logits of each token lie apart, which weights changed, and the task's scores if it was played."""
        with figures.drawing:
            figure = figures.new_figure(12.0, 3.9)
            panels = figure.subplots(1, 3 if self.scores else 2)
            _draw_differences(panels[0], self)
            _draw_weights(panels[1], self)
            if self.scores:
                _draw_scores(panels[2], self)
            figure.supxlabel(figures.wrapped(self.explanation(), 190), fontsize=8, color=figures.QUIET, x=0.01, ha="left")
            return figures.finish(figure, "; ".join(self.lines()))

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
        text = "".join(f"<p>{tables.escaped(part)}</p>" for part in (self.explanation(), "; ".join(self.lines())))
        return tables.as_html(self.rows(), caption) + scores + text


def _count(units: float) -> str:
    return f"{units:.1f}" if units < 100 else f"{units:,.0f}"


def _cells(row: ModuleKind) -> list[str]:
    return [
        row.kind,
        f"{row.changed} of {row.tensors}",
        f"{row.elements_changed / max(1, row.elements):.1%}",
        f"{row.largest:.2g}",
        "-" if row.ulps is None else f"{row.ulps:.3f}",
    ]


def _draw_differences(axes: Axes, proof: Proof) -> None:
    """One histogram in the models' type, one in fp32 arithmetic where there is one; the same bins."""
    shown = [(proof.dtype, proof.forced)] + ([("float32", proof.exact)] if proof.exact else [])
    for number, (name, forced) in enumerate(shown):
        lefts, widths, counts = _bins(forced)
        axes.bar(lefts, counts, widths, align="edge", color=COLOURS[number], alpha=0.75, label=f"computed in {name}")
    axes.set_xscale("log")
    axes.set_xlabel("largest difference of a token's logits")
    axes.set_title("merged against injected: tokens", loc="left", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="upper left")


def _bins(forced: TeacherForced) -> tuple[list[float], list[float], list[int]]:
    """Left edges, widths and counts of the bins that hold something; what lies below the first edge counts in the first bin."""
    edges = (*forced.edges, forced.edges[-1] * 10)
    counts = [forced.counts[0] + forced.counts[1], *forced.counts[2:]]
    filled = [number for number, count in enumerate(counts) if count]
    return [edges[n] for n in filled], [edges[n + 1] - edges[n] for n in filled], [counts[n] for n in filled]


def _draw_weights(axes: Axes, proof: Proof) -> None:
    rows = [row for row in proof.weights if row.changed]
    axes.barh([row.kind for row in rows], [100 * row.elements_changed / row.elements for row in rows], color=COLOURS[0], height=0.6)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of the weights")
    axes.set_title(f"changed by the merge: {proof.share_changed:.1%} of all", loc="left", fontsize=10)


def _draw_scores(axes: Axes, proof: Proof) -> None:
    """Hit rate and compliance, injected beside merged, for each temperature."""
    groups = [(score.label, [score.hit_rate, score.compliance]) for score in proof.scores]
    figures.draw_bars(axes, ["hit rate", "JSON compliance"], groups)
    axes.set_title(f"the task, % of {len(proof.scores[0].cases)} incidents", loc="left", fontsize=10)
    axes.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
