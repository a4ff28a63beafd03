"""What replies to the AIOps task are worth: each judged, the rates of a model, several models side by side.

Hit rate: share of incidents whose root cause is right in a compliant reply. Compliance: share of replies of round two that are,
after the reasoning, exactly one JSON object that `SCHEMA` takes; a code fence or a word around it is none, because the
program that reads it would fail. The same code scores the course model and an 8B model.

Covers: replies of a server (`online`) and texts from elsewhere (`from_replies`). Does not cover: the quality of round one's prose.
Used by notebook 06, also through `lora.compare`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from ..chat import reasoning
from ..chat.reasoning import Parted
from ..common import figures, tables
from ..common.errors import SettingError
from ..common.figures import Picture, draw_bars
from ..workers.offline_job import OfflineReply
from .incidents import CAUSES, SCHEMA, Incident

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator


class Judgement(NamedTuple):
    """What a reply of round two is worth. `why` says what is wrong, "" if nothing; the three others only count if compliant."""

    compliant: bool
    hit: bool
    severity: bool = False
    action: bool = False
    why: str = ""


@dataclass(frozen=True)
class Case:
    """One incident played: both replies in their parts, seconds of round two and of both, and the judgement.

    Seconds are None where the texts came from elsewhere or a request failed.
    """

    incident: Incident
    first: Parted
    second: Parted
    judgement: Judgement
    second_seconds: float | None = None
    seconds: float | None = None


class ReplySeconds(NamedTuple):
    """Seconds: the mean, and what 95 and 99 % of the cases stayed below (interpolated; of 100 cases P99 is nearly the slowest)."""

    mean: float
    p95: float
    p99: float

    def __str__(self) -> str:
        return " / ".join(f"{value:.2f}" for value in self)


class ClassScore(NamedTuple):
    """One root cause: how many incidents, replies that were compliant, and hits."""

    root_cause: str
    incidents: int
    compliant: int
    hits: int


@dataclass(frozen=True, repr=False)
class Score:
    """A model on a list of incidents; `cases` keep everything. Rates are shares from 0 to 1."""

    label: str
    cases: tuple[Case, ...]
    concurrency: int | None = None
    temperature: float | None = None

    @property
    def hit_rate(self) -> float:
        """Right root causes."""
        return self._share(lambda one: one.hit)

    @property
    def compliance(self) -> float:
        """Replies of round two that are the JSON object asked for."""
        return self._share(lambda one: one.compliant)

    @property
    def severity_rate(self) -> float:
        """Right severities."""
        return self._share(lambda one: one.severity)

    @property
    def action_rate(self) -> float:
        """Right actions."""
        return self._share(lambda one: one.action)

    @property
    def latency(self) -> ReplySeconds | None:
        """Seconds of round two; None without times."""
        return _reply_seconds([case.second_seconds for case in self.cases])

    @property
    def whole_latency(self) -> ReplySeconds | None:
        """Seconds of both rounds; None without times."""
        return _reply_seconds([case.seconds for case in self.cases])

    def by_class(self) -> tuple[ClassScore, ...]:
        """One row for each root cause, in the order of `incidents.CAUSES`, without those that did not occur."""
        rows = [(cause, [case.judgement for case in self.cases if case.incident.root_cause == cause]) for cause in CAUSES]
        return tuple(
            ClassScore(cause, len(judgements), sum(one.compliant for one in judgements), sum(one.hit for one in judgements))
            for cause, judgements in rows
            if judgements
        )

    def failures(self) -> tuple[Case, ...]:
        """The cases that are not hits."""
        return tuple(case for case in self.cases if not case.judgement.hit)

    def reasons(self) -> Counter[str]:
        """Why cases failed, and how often."""
        return Counter(case.judgement.why for case in self.failures())

    def _share(self, right: Callable[[Judgement], bool]) -> float:
        return sum(right(case.judgement) for case in self.cases) / len(self.cases)

    def __str__(self) -> str:
        return f"{self.label}: {self.hit_rate:.1%} hits, {self.compliance:.1%} compliant, {len(self.cases)} incidents"

    __repr__ = __str__


def judge(incident: Incident, reply: Any) -> Judgement:
    """Judge a reply to round two: an OpenAI message, its text with or without <think>, or a `Parted`.

    What the parts are worth: compliant as `SCHEMA` has it, then each key against the incident's.
    """
    parted = reply if isinstance(reply, Parted) else reasoning.reasoning_and_answer(reply)
    if not parted.answer:
        return not_compliant("no answer: the reasoning never ended" if parted.reasoning else "no answer")
    try:
        given = json.loads(parted.answer, object_pairs_hook=_once)
    except ValueError as error:
        return not_compliant(_describe(parted.answer, error))
    wrong = next(iter(_validator().iter_errors(given)), None)
    if wrong is not None:
        place = ".".join(str(step) for step in wrong.absolute_path)
        return not_compliant(f"not the schema: {place + ': ' if place else ''}{wrong.message}"[:160])
    right = {key: given[key] == value for key, value in incident.expected.items()}
    words = ", ".join(f"{key} is {given[key]}, not {incident.expected[key]}" for key, good in right.items() if not good)
    return Judgement(True, right["root_cause"], right["severity"], right["action"], words)


def from_replies(label: str, incidents: Sequence[Incident], replies: Sequence[OfflineReply]) -> Score:
    """Judge texts that were made elsewhere, one for each incident, in order.

    Their seconds are not taken over: those of a batch are no client's. Raises `SettingError` unless there is one for each.
    """
    if not incidents or len(incidents) != len(replies):
        raise SettingError(f"{len(replies)} replies for {len(incidents)} incidents.", "Give one OfflineReply for each incident.")
    return Score(label, tuple(_offline_case(one, reply) for one, reply in zip(incidents, replies, strict=True)))


def _offline_case(incident: Incident, reply: OfflineReply) -> Case:
    first, second = reasoning.reasoning_and_answer(reply.first), reasoning.reasoning_and_answer(reply.second)
    return Case(incident, first, second, judged(incident, second, reply.limit))


def judged(incident: Incident, second: Parted, limit: int) -> Judgement:
    """The judgement of round two, with the reason where it was cut off after `limit` tokens (0: it was not)."""
    judgement = judge(incident, second)
    return not_compliant(f"cut off at {limit} tokens") if limit and not judgement.compliant else judgement


def table(*scores: Score) -> ScoreTable:
    """The scores side by side. Raises `SettingError` unless all are of the same incidents: other incidents, other difficulty."""
    if not scores or len({tuple(case.incident for case in one.cases) for one in scores}) != 1:
        raise SettingError(
            f"{len(scores)} scores that are not of the same incidents.", "Score each model on the same list, and give them all."
        )
    return ScoreTable(scores)


@dataclass(frozen=True, repr=False)
class ScoreTable:
    """Shows itself as two tables: one row for each model, and hits for each root cause."""

    scores: tuple[Score, ...]

    def rows(self) -> list[list[str]]:
        """Heading, then one row for each score."""
        head = ["model", "hit rate", "JSON compliance", "severity", "action"]
        timed = any(one.latency for one in self.scores)
        head += ["round two s: mean / P95 / P99", "both rounds s"] if timed else []
        return [head, *(self._row(one, timed) for one in self.scores)]

    def class_rows(self) -> list[list[str]]:
        """Heading, then one row for each root cause: hits of its incidents, for each score."""
        columns = [one.by_class() for one in self.scores]
        head = ["hits by root cause", *(one.label for one in self.scores)]
        return [head, *([rows[0].root_cause, *(f"{one.hits} of {one.incidents}" for one in rows)] for rows in zip(*columns, strict=True))]

    def figure(self) -> Picture:
        """Bars: hit rate and compliance of each model, and beside them its hit rate for each root cause."""
        with figures.drawing:
            figure = figures.new_figure(13.0, 3.9)
            left, right = figure.subplots(1, 2, width_ratios=(4, 9))
            rates = {"hit rate": "hit_rate", "JSON compliance": "compliance", "severity": "severity_rate", "action": "action_rate"}
            draw_bars(left, list(rates), [(one.label, [getattr(one, name) for name in rates.values()]) for one in self.scores])
            shares = [(one.label, [row.hits / row.incidents for row in one.by_class()]) for one in self.scores]
            draw_bars(right, [row.root_cause.replace("_", "\n") for row in self.scores[0].by_class()], shares)
            figures.title(left, f"% of {len(self.scores[0].cases)} incidents")
            figures.title(right, "hit rate for each root cause, %")
            figures.legend(left, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)
            return figures.finish(figure, "; ".join(map(str, self.scores)))

    def _row(self, one: Score, timed: bool) -> list[str]:
        row = [one.label, *(f"{rate:.1%}" for rate in (one.hit_rate, one.compliance, one.severity_rate, one.action_rate))]
        return row + ([str(one.latency or "-"), str(one.whole_latency or "-")] if timed else [])

    def _caption(self) -> str:
        levels = {one.concurrency for one in self.scores if one.concurrency}
        running = f", {' or '.join(map(str, sorted(levels)))} at a time" if levels else ""
        return f"{len(self.scores[0].cases)} incidents, two rounds each{running}"

    def __str__(self) -> str:
        return "\n\n".join([tables.plain(self.rows()), tables.plain(self.class_rows()), self._caption()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return tables.as_html(self.rows(), self._caption()) + tables.as_html(self.class_rows())


def _reply_seconds(seconds: Iterable[float | None]) -> ReplySeconds | None:
    import numpy as np

    known = [value for value in seconds if value is not None]
    return ReplySeconds(sum(known) / len(known), *(float(value) for value in np.percentile(known, (95, 99)))) if known else None


def not_compliant(why: str) -> Judgement:
    """The judgement of a reply that is worth nothing, with the reason."""
    return Judgement(compliant=False, hit=False, why=why)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are told once each: which of two values a reader takes is anybody's guess."""
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"the key {key} stands there twice")
        content[key] = value
    return content


def _describe(answer: str, error: ValueError) -> str:
    if answer.startswith("```"):
        return "a code fence around it"
    if "{" not in answer:
        return "prose, no JSON"
    if not isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error}"
    return "text before the JSON" if not answer.startswith("{") else f"not one JSON object: {error.msg}"


@cache
def _validator() -> Draft202012Validator:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(SCHEMA)
