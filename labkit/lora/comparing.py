"""A merged model held against its base with the adapter injected: weights, logits, task, and why they differ.

    compare(base, adapter, merged, conversations, incidents=...)  -> Comparison: tables, figure, an explanation in words

Injected means PEFT's way: the base as it is, and what the adapter adds computed anew in every forward pass, in fp32. (An
engine that serves the adapter computes it in the base's type.) Merged means the sum, rounded to the base's type once. The
two are the same function and not the same numbers, so bit equality of logits is not to be had, and not what is asked.

Covers: proof that a merge took and did no harm. Does not cover: which of two models is better at the task (two scores by
`offline.score`, side by side in `triage.table`), the merge itself (`merging`). Used by notebook 06.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from .. import offline, tables, triage, worker
from ..errors import SettingError
from ..folders import require_model
from .adapters import Adapter

if TYPE_CHECKING:
    from ..incidents import Incident
    from ..plots import Picture
    from ..triage import Score

SCRIPT = Path(__file__).with_name("compare_worker.py")
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
class Comparison:
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
        from .drawing import comparison_figure

        return comparison_figure(self)

    def _scores(self) -> triage.ScoreTable | None:
        return triage.table(*self.scores) if self.scores else None

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


def compare(
    base: str | Path,
    adapter: str | Path,
    merged: str | Path,
    conversations: Sequence[Sequence[Mapping[str, str]]],
    *,
    incidents: Sequence[Incident] | None = None,
    temperatures: Sequence[float] = (0.0, 0.7),
    max_new_tokens: int | None = None,
    batch: int = 32,
    seed: int = 0,
) -> Comparison:
    """Hold `merged` against `base` with `adapter` injected, in the models' own type, on the GPU if there is one; shows progress.

    Every reply of the assistant's in `conversations` is given to both token by token (4 GiB of logits at most are kept; a line
    says when that leaves some out). `incidents`, if given, are played in both rounds at each of `temperatures` with at most
    `max_new_tokens` per reply (`offline.replies`). One model is in memory at a time. Reads, writes nothing.

    Raises `LabError` children: before anything starts for folders and arguments that cannot be; later when the merge changed
    nothing or the folders are not of one model. A merge that did harm is no error: the result is false and `lines` says what.
    """
    folders = {"base": require_model(base), "adapter": Adapter.read(adapter).folder, "merged": require_model(merged)}
    if not any(message["role"] == "assistant" for one in conversations for message in one[1:]):
        raise SettingError(
            "No conversation has a reply to compare.", 'Give conversations such as incidents.conversations("validation", 32, 0).'
        )
    began = time.monotonic()
    request = {
        **{name: str(folder) for name, folder in folders.items()},
        "conversations": [[dict(message) for message in one] for one in conversations],
        **offline.wishes(folders["base"], incidents or (), temperatures, max_new_tokens, batch, seed),
    }
    told = worker.run(SCRIPT, request, title=f"Comparing {folders['merged'].name}", unit="replies", environment=offline.PATIENT)
    return Comparison(
        **folders,
        dtype=told["dtype"],
        device=told["device"],
        weights=tuple(Kind(**row) for row in told["weights"]),
        astray=tuple(told["astray"]),
        forced=Forced.from_json(told["forced"]),
        exact=Forced.from_json(told["exact"]) if told["exact"] else None,
        base_agreement=told["base_agreement"],
        scores=_scored(incidents or (), temperatures, told["replies"]),
        seconds=round(time.monotonic() - began, 1),
    )


def _scored(incidents: Sequence[Incident], temperatures: Sequence[float], replies: Mapping[str, Sequence[Any]]) -> tuple[Score, ...]:
    if not incidents:
        return ()
    return tuple(
        triage.from_replies(f"{way}, temperature {temperature:g}", incidents, offline.as_replies(replies[way][number]))
        for number, temperature in enumerate(temperatures)
        for way in ("injected", "merged")
    )


def _row(one: Kind) -> list[str]:
    return [
        one.kind,
        f"{one.changed} of {one.tensors}",
        f"{one.elements_changed / max(1, one.elements):.1%}",
        f"{one.largest:.2g}",
        "-" if one.ulps is None else f"{one.ulps:.3f}",
    ]
