"""A log as records: who said each line, when, how loud, and what, without the prefixes that loggers and containers put before it.

    records("(EngineCore pid=7) ERROR 11-26 10:00:00 [core.py:700] RuntimeError: x")
    -> [LogLine(number=1, process="EngineCore pid=7", level="ERROR", stamp="11-26 10:00:00", head=..., text="RuntimeError: x")]

Covers vLLM's prefixes of all its versions, SGLang's, Ray's, torch's ([rank0]:, [W1126 ...]), uvicorn's, loguru's; ANSI colours,
CRLF, the states of progress bars. What a shipper of logs puts before all that is `outer`'s. Does not cover what the lines mean
(`tracebacks`). One pass, in time linear in the text.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

ENTITY = re.compile(r"&(?:quot|apos|lt|gt|nbsp|#0?3[49]|#[xX]2[27]);")
BLANKS = {"\u00a0": " ", "\u2002": " ", "\u2003": " ", "\u202f": " ", "\u3000": " ", "\ufeff": "", "\u200b": "", "\u2060": ""}
"""Other blanks than a log has, and what they were."""
ANSI = re.compile(r"(?:\x1b|\^\[|#033)(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
PIDS = re.compile(r"(?:\([^()\n]{0,60}?\b(?:pid|rank)=\d+[^()\n]{0,60}\) ?)+")
RANK = re.compile(r"\[(rank\d+)\]:? ?")
VLLM = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL) (\d\d-\d\d \d\d:\d\d:\d\d) (?:\[[^\]\n]*\]|[\w./]+:\d+\]) ?")
SGLANG = re.compile(r"\[\d{4}-(\d\d-\d\d \d\d:\d\d:\d\d)(?:[.,]\d+)?((?: [\w=-]+)*)\] ?(?:(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b[: ] *)?")
GLOG = re.compile(r"(?:\[([IWEF])\d+ [^\]\n]*\]|([IWEF])\d{4} \d\d:\d\d:\d\d[^\]\n]*\]) ?")
DATED = re.compile(r"\d{4}-(\d\d-\d\d)[ T](\d\d:\d\d:\d\d)[.,]?\d*Z?(?: \|| -)? +(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b[ |:-]*")
PLAIN = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL)(?::? +\[[\w.]+\] |: +)")
BARE, BARE_ANSI = "[0;0m", re.compile(r"\[\d{1,3}(?:;\d{1,3})*m")
"""Colours whose escape character was lost on the way."""
WIDEST, MOST_STATES = 20_000, 1000
"""Characters of a line, and states of a progress bar in one, that are looked at."""
HEAD_LINES, TAIL_LINES = 15_000, 25_000
"""Of a longer log the middle is left out."""
KEPT = 500
"""Lines at either end that are kept, whatever they say."""
LETTERS = {"I": "INFO", "W": "WARNING", "E": "ERROR", "F": "CRITICAL"}
BAR = re.compile(r"[^\n]*?(?:\d+%|\d+it)[^\n]{0,160}?\[[\d:]+(?:<[\d:?]+)?, *[^\]\n]*\]|[^|\n]{0,80}\d+%\|[^|\n]*\|[^\n]*$")
GROUP = re.compile(r"^ +(?:\| ?|\+ (?=Exception Group)|\+-[-+]* ?\d* ?-*)")
"""The margin of an exception group's lines."""
STARTS = frozenset("([DIWECF0123456789")


Peel = Callable[[list[str], Callable[[str], int]], Sequence[str]]


class LogLine(NamedTuple):
    """A line of a log. `number` counts from 1; `process` is "" of a line that says nothing of its writer.

    `head` is equal for the lines of one message, and `begins` says that a line begins one by its looks.
    """

    number: int
    process: str
    level: str
    stamp: str
    head: str
    begins: bool
    text: str


def records(text: str, peel: Peel | None = None) -> list[LogLine]:
    """Every line of `text` that says something, in order. `peel` takes off what is not an engine's own (`outer.peeled`)."""
    text = _cleaned(text.replace("\r\n", "\n").replace("\0", ""))
    if "\x1b" in text or "^[[" in text or "#033[" in text:
        text = ANSI.sub("", text)
    if BARE in text:
        text = BARE_ANSI.sub("", text)
    lines = text.split("\n")
    if len(lines) > HEAD_LINES + TAIL_LINES:
        lines = _thinned(lines)
    return list(_records(peel(lines, known) if peel else lines))


def _cleaned(text: str) -> str:
    """`text` with the characters that a log has."""
    if "&" in text and ENTITY.search(text):
        text = html.unescape(text)
    if not text.isascii():
        for odd, usual in BLANKS.items():
            if odd in text:
                text = text.replace(odd, usual)
    return text


def _thinned(lines: list[str]) -> list[str]:
    """A long log without what servers say of every request, and then without its middle; lines keep their numbers."""
    last = len(lines) - KEPT
    for number in range(KEPT, last):
        line = lines[number]
        if 'HTTP/1.1" 200' in line or " throughput" in line or "Decode batch" in line or "Prefill batch" in line:
            lines[number] = ""
    said = [number for number, line in enumerate(lines) if line]
    for number in said[HEAD_LINES:-TAIL_LINES]:
        lines[number] = ""
    return lines


def known(line: str) -> int:
    """How long the prefix of a line is that an engine or a library wrote itself."""
    return _prefix(line, {})[4] if line[:1] in STARTS else 0


def _records(lines: Sequence[str]) -> Iterator[LogLine]:
    new, starts, writers = tuple.__new__, STARTS, dict[str, str]()
    process = ""  # of a line that has no prefix: the writer of the message that it belongs to
    for number, whole in enumerate(lines, 1):
        for line in _states(whole) if "\r" in whole or "it/s" in whole or "s/it" in whole or "%|" in whole or "% C" in whole else (whole,):
            if not line:
                continue
            if line[0] not in starts:
                yield new(LogLine, (number, process, "", "", "", False, line[:WIDEST]))
                continue
            who, level, stamp, begins, end = _prefix(line, writers)
            if not end:
                yield new(LogLine, (number, process, "", "", "", False, line[:WIDEST]))
                continue
            yield new(LogLine, (number, who, level, stamp, line[:end], begins, line[end : end + WIDEST]))
            process = who if begins else ""


def _states(line: str) -> Iterator[str]:
    """What is left of a line when the states of a progress bar are taken off."""
    for state in line.split("\r")[-MOST_STATES:]:
        bar = ("it/s" in state or "s/it" in state or "%|" in state or "% Completed" in state) and BAR.match(state[:WIDEST])
        yield state[bar.end() :] if bar else state


def _prefix(line: str, writers: dict[str, str]) -> tuple[str, str, str, bool, int]:
    """Of the prefix of a line: the writer, level and time, whether it stands on a message's first line alone, and its length."""
    who, end, first = "", 0, line[0]
    if first == "(":
        pids = line[: line.find(") ") + 2]
        if (known := writers.get(pids)) is None or line[len(pids) : len(pids) + 1] == "(":
            match = PIDS.match(line)
            pids = match[0] if match else ""
            known = writers.setdefault(pids, _writer(pids))
        who, end = known, len(pids)
        first = line[end : end + 1]
    elif line.startswith("[rank") and (rank := RANK.match(line)):
        who, end = rank[1], rank.end()
        first = line[end : end + 1]
    if first == "[":
        if found := SGLANG.match(line, end):
            return who or found[2].strip() or "main", found[3] or "", found[1], True, found.end()
    elif first.isdigit():
        if found := DATED.match(line, end):
            return who or "main", found[3], f"{found[1]} {found[2]}", True, found.end()
        return who, "", "", False, end
    elif found := VLLM.match(line, end):
        return who, found[1], found[2], False, found.end()
    elif found := PLAIN.match(line, end):
        return who, found[1], "", True, found.end()
    if first in "[IWEF" and first and (found := GLOG.match(line, end)):
        return who, LETTERS[found[1] or found[2]], "", False, found.end()
    return who, "", "", False, end


def _writer(pids: str) -> str:
    return " ".join(part.strip("() ") for part in pids.split(")") if part.strip())
