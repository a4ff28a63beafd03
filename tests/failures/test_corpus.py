"""Logs of failed starts that the catalogue was not written from: each shows its root exception, and no cause that is said is false.

`logs/expected.toml` says what is right for each; its first lines tell what the keys mean.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from labkit.failures.verdicts import Verdict, explain

LOGS = Path(__file__).parent / "logs"
LEAST_RIGHT = 0.95
HOLE = re.compile(r"\(\s*\)|: ?\)|\{\w+\}|\x1b|\bNone\b|(?<!\.)\.\.(?!\.)|\d\.\)")


@dataclass(frozen=True)
class Case:
    """What is right for one log."""

    file: str
    kind: str
    root: str | list[str]
    unknown_ok: bool
    source: str
    cause: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    trap: str = ""
    good: bool = False

    def shows_root(self, verdict: Verdict) -> bool:
        """A part of the root exception's own message is shown, however the lines are broken."""
        shown = " ".join(verdict.text("en").split())
        return any(" ".join(root.split()) in shown for root in ([self.root] if isinstance(self.root, str) else self.root))

    def falsehoods(self, verdict: Verdict) -> list[str]:
        """Why what is said is false: a cause of another failure, advice that cannot help."""
        if not verdict.known:
            return []
        said, advised = verdict.causes.en, verdict.fixes.en
        wrong = [f"never {pattern!r}" for pattern in self.never if re.search(pattern, f"{said}\n{advised}", re.IGNORECASE)]
        if not any(re.search(pattern, said, re.IGNORECASE) for pattern in self.cause):
            wrong.append("the cause is another one" if self.cause else "nobody can know this one")
        return wrong

    def is_right(self, verdict: Verdict) -> bool:
        """Known with the right cause, or said to be unknown where that is as good."""
        return not self.falsehoods(verdict) and (verdict.known or self.unknown_ok)


CASES = [Case(**row) for row in tomllib.loads((LOGS / "expected.toml").read_text(encoding="utf-8"))["log"]]


@cache
def explained(file: str) -> Verdict:
    return explain(LOGS / file)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.file)
def test_the_root_is_shown_and_nothing_false_is_said(case: Case) -> None:
    verdict = explained(case.file)
    assert verdict.found is not case.good, verdict
    if case.good:
        return
    assert case.shows_root(verdict), verdict
    assert not case.falsehoods(verdict), verdict
    for said in (*_both(verdict.causes), *_both(verdict.fixes)):
        assert not HOLE.search(said)


def test_nearly_all_are_of_the_right_kind() -> None:
    wrong = [case.file for case in CASES if not case.is_right(explained(case.file))]
    assert len(wrong) <= (1 - LEAST_RIGHT) * len(CASES), wrong


def test_the_corpus_is_whole() -> None:
    assert sorted(case.file for case in CASES) == sorted(path.name for path in LOGS.glob("*.log"))
    assert len(CASES) >= 70
    assert sum(bool(case.trap) for case in CASES) >= 15
    assert sum(not case.cause and not case.good for case in CASES) >= 8


def _both(words: object) -> tuple[str, str]:
    return getattr(words, "en", ""), getattr(words, "zh", "")
