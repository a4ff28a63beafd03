"""Both rounds of the AIOps task without a server: transformers on a folder, and what differs from an engine serving it.

    replies(folder, incidents, adapter=...)      what the model says, for `evaluation.from_replies`
    score(folder, incidents, label="offline")    the same, judged: an `evaluation.Score`
    differences(offline_score, online_score)     the incidents that came out otherwise, and where the texts part

Two folders side by side (A/B) are two scores in `evaluation.table`. Offline and online take the same template, the same two
rounds and the folder's own generation_config; what remains is arithmetic: other kernels, other batches, other roundings.
Seconds of a batch say nothing about a server's latency.

Covers: the incidents of `incidents`. Does not cover: serving (`evaluation.score`). Used by notebook 06.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common import tables
from ..common.errors import SettingError
from ..models.adapter import Adapter
from ..models.folders import require_model
from ..workers import launch
from ..workers.messages import parse
from ..workers.offline_job import Dialogue, OfflineReply, OfflineRequest, OfflineResult, TaskRequest
from . import scores, windows
from .scores import Case, Score

if TYPE_CHECKING:
    from .incidents import Incident


SCRIPT = launch.SCRIPTS / "offline_worker.py"
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Threads that wait for each other sleep instead of spinning: two cores are shared with a notebook and perhaps a server, and there
a spinning thread takes the core that the other one needs (a training step then cost three times the processor time)."""
PARTS = ("round one, reasoning", "round one, answer", "round two, reasoning", "round two, answer")
AROUND = 24
"""Characters shown before and after the place where two texts part."""


def replies(
    folder: str | Path,
    incidents: Sequence[Incident],
    *,
    adapter: str | Path | None = None,
    temperature: float = 0.0,
    max_new_tokens: int | None = None,
    batch: int = 32,
    seed: int = 0,
) -> tuple[OfflineReply, ...]:
    """Play both rounds of `incidents` through transformers on the model in `folder`, in the order given; shows progress.

    With `adapter` a PEFT adapter is injected first. The model computes in its own type, on the GPU if there is one. The second
    round sees the first answer without its reasoning, as `chat.dialogue` sends it. `max_new_tokens` is per reply. The same
    `seed` gives the same replies on the same machine. Raises `LabError` children before anything starts, for a folder that holds
    no whole model or adapter and for arguments that cannot be; `MemoryHeld` when the GPU is full.
    """
    model = require_model(folder)
    injected = "" if adapter is None else str(Adapter.read(adapter).folder)
    if not incidents:
        raise SettingError("There are no incidents to play.", 'Give some: incidents.load("validation", 32).')
    request = OfflineRequest(str(model), injected, task(model, incidents, (temperature,), max_new_tokens, batch, seed))
    title, total = f"Offline: {Path(folder).name}", 2 * len(incidents)
    result = launch.run(SCRIPT, asdict(request), title=title, total=total, unit="replies", environment=PATIENT)
    return parse(OfflineResult, result).replies[0]


def score(folder: str | Path, incidents: Sequence[Incident], *, label: str = "", **options: Any) -> Score:
    """`replies` (which takes `options`) judged: an `evaluation.Score` like the one of a server. `label` names it in tables."""
    return scores.from_replies(label or f"{Path(folder).name}, offline", incidents, replies(folder, incidents, **options))


@dataclass(frozen=True)
class Difference:
    """One incident that came out otherwise. `where` names the part, `at` the first differing character in it (from 0).

    `first` and `second` are the texts around that character. `verdicts` are what the two were worth: "hit", or why not.
    """

    incident: Incident
    where: str
    at: int
    first: str
    second: str
    verdicts: tuple[str, str]

    @property
    def decisive(self) -> bool:
        """Whether the judgements differ, and not the wording alone."""
        return self.verdicts[0] != self.verdicts[1]


@dataclass(frozen=True, repr=False)
class Differences:
    """The incidents on which two scores differ, of `total`; shows itself as a table. Empty is false."""

    labels: tuple[str, str]
    total: int
    found: tuple[Difference, ...]

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[Difference]:
        return iter(self.found)

    @property
    def decisive(self) -> int:
        """How many have another verdict."""
        return sum(difference.decisive for difference in self.found)

    def caption(self) -> str:
        """Counts in one line."""
        return f"{len(self)} of {self.total} incidents came out in other words, {self.decisive} with another verdict"

    def rows(self) -> list[list[str]]:
        """The table as text, heading first."""
        heading = ["incident", "first differs in", *self.labels, "verdicts"]
        return [heading, *([row.incident.name, f"{row.where}, character {row.at}", row.first, row.second, _verdicts(row)] for row in self)]

    def __str__(self) -> str:
        return "\n\n".join([tables.plain(self.rows()), self.caption()]) if self.found else self.caption()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return tables.as_html(self.rows(), self.caption()) if self.found else f"<p>{tables.escaped(self.caption())}</p>"


def differences(first: Score, second: Score) -> Differences:
    """Where two scores of the same incidents differ in words or verdict, for instance offline and online at temperature 0.

    White space at the ends of reasoning and answer does not count. Raises `SettingError` for scores of other incidents.
    """
    scores.table(first, second)  # refuses scores that cannot be set side by side
    pairs = zip(first.cases, second.cases, strict=True)
    differing = tuple(difference for pair in pairs if (difference := _difference(*pair)))
    return Differences((first.label, second.label), len(first.cases), differing)


def _difference(ours: Case, theirs: Case) -> Difference | None:
    verdicts = _verdict(ours), _verdict(theirs)
    for where, text, against in zip(PARTS, (*ours.first, *ours.second), (*theirs.first, *theirs.second), strict=True):
        if text != against:
            at = next((place for place, (a, b) in enumerate(zip(text, against, strict=False)) if a != b), min(len(text), len(against)))
            return Difference(ours.incident, where, at, _around(text, at), _around(against, at), verdicts)
    return Difference(ours.incident, "the verdict alone", 0, "", "", verdicts) if verdicts[0] != verdicts[1] else None


def _around(text: str, at: int) -> str:
    start, end = max(0, at - AROUND), at + AROUND
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}" or "(nothing)"


def _verdict(case: Case) -> str:
    return "hit" if case.judgement.hit else case.judgement.why


def _verdicts(difference: Difference) -> str:
    return " / ".join(difference.verdicts) if difference.decisive else f"both {difference.verdicts[0]}"


def task(
    folder: Path, incidents: Sequence[Incident], temperatures: Sequence[float], max_new_tokens: int | None, batch: int, seed: int
) -> TaskRequest:
    """What a worker has to be told that plays `incidents` with the model in `folder`. Raises `SettingError` for what cannot be."""
    limit = windows.reply_tokens(folder) if max_new_tokens is None else max_new_tokens
    if min(limit, batch) < 1 or not temperatures or min(temperatures) < 0:
        raise SettingError(
            f"max_new_tokens {limit}, batch {batch}, temperatures {list(temperatures)}: not possible.",
            "Give positive numbers; 0 is greedy.",
        )
    rounds = [incident.messages("") for incident in incidents]
    dialogues = tuple(Dialogue(tuple(messages[:-2]), messages[-1]["content"]) for messages in rounds)
    return TaskRequest(dialogues, tuple(temperatures), limit, batch, seed)
