"""The catalogue against itself: every row can be found by its own example, in both languages, and leaves no hole."""

from __future__ import annotations

import re

import pytest

from labkit.failures import pages
from labkit.failures.known import KnownFailure, failures
from labkit.failures.phases import PHASES
from labkit.failures.verdicts import explain_message, explain_text
from labkit.failures.wording import FLAG_OF, HOLE, fill, named

ROWS = failures()
SAID = [row for row in ROWS if row.is_said]
EXAMPLES = [(row, line) for row in SAID for line in row.example]
ELSEWHERE = re.compile(r"ssh|scp|tunnel")
"""Rows of other programs' words, whose tests are elsewhere."""


def holes(row: KnownFailure) -> set[str]:
    """What its sentences want filled."""
    return {name for words in (row.cause, row.fix) for text in (words.en, words.zh) for name in HOLE.findall(text)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_row_is_whole(row: KnownFailure) -> None:
    assert re.fullmatch(r"[a-z0-9]+(?:-[a-z0-9]+)*", row.id)
    assert all((row.cause.en, row.cause.zh, row.fix.en, row.fix.zh))
    assert not row.section or (row.section in pages.section_names() and row.see.en and row.see.zh)
    assert row.is_said or row.section, "it is neither said nor shown"
    assert set(row.phase) <= set(PHASES)
    assert holes(row) - named("", "en").keys() <= {
        name for pattern in (row.message, row.beside) if pattern is not None for name in pattern.groupindex
    }
    assert not any(set(pattern.groupindex) & {*FLAG_OF, "engine"} for pattern in (row.message, row.beside) if pattern is not None)


@pytest.mark.parametrize("row", [row for row in SAID if not ELSEWHERE.match(row.home)], ids=lambda row: row.id)
def test_where_nothing_was_told_besides_there_is_a_cause_without_a_hole(row: KnownFailure) -> None:
    must = {name: "7" for pattern in (row.message, row.beside) if pattern is not None for name in pattern.groupindex}
    for groups in ({}, must):
        for words in (fill(row.cause, groups, "vllm"), fill(row.fix, groups, "")):
            assert not HOLE.search(words.en + words.zh) and "  " not in words.en
    assert all(fill(row.cause, must, "vllm").of(language) for language in ("en", "zh"))


@pytest.mark.parametrize(("row", "line"), EXAMPLES, ids=lambda value: value.id if isinstance(value, KnownFailure) else None)
def test_an_example_is_known_for_what_it_is(row: KnownFailure, line: str) -> None:
    engine = row.said_by[0] if row.said_by else "vllm" if row.home != "sglang" else "sglang"
    if engine == "ssh":  # has no log: a line alone
        assert explain_message(line, engine=engine).id == row.id
        return
    verdict = explain_text(
        f"Traceback (most recent call last):\n{line}\n"
        if not re.search(r"error: |^\[Errno", line)
        else f"ERROR:    {line}\n"
        if line.startswith("[Errno")
        else line,
        engine=engine,
    )
    assert verdict.id == row.id
    assert verdict.cause and verdict.causes.zh and not HOLE.search(verdict.text())


@pytest.mark.parametrize(
    "row", [row for row in SAID if row.home in ("hub", "cuda", "torch", "system") and not row.said_by], ids=lambda row: row.id
)
def test_what_is_below_both_engines_is_held_against_both(row: KnownFailure) -> None:
    for line in row.example:
        if not re.search(r"error: |^\[Errno|memory", line):
            assert {
                explain_text(f"Traceback (most recent call last):\n{line}\n", engine=engine).id for engine in ("vllm", "sglang", "")
            } == {row.id}


def test_most_rows_that_are_said_have_an_example() -> None:
    needs_more = ("beside", "phase", "module", "function", "within", "source")
    rows = [row for row in SAID if not ELSEWHERE.match(row.home) and not any(getattr(row, part) for part in needs_more)]
    without = [row.id for row in rows if not row.example]
    assert len(without) <= 8, without
