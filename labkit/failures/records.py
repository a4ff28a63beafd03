"""A log as records: who said each line, when, how loud, and what, without the prefixes that loggers and containers put before it.

    records("(EngineCore pid=7) ERROR 11-26 10:00:00 [core.py:700] RuntimeError: x")
    -> [LogLine(number=1, process="EngineCore pid=7", level="ERROR", stamp="11-26 10:00:00", head=..., text="RuntimeError: x")]

Covers vLLM's prefixes of all its versions, SGLang's, Ray's, torch's ([rank0]:, [W1126 ...]), uvicorn's, loguru's, those of docker
compose, Kubernetes and journald; ANSI colours, CRLF, the states of progress bars. Does not cover what the lines mean (`tracebacks`).
One pass, in time linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
SHIPPED = re.compile(
    r"(?:(?P<host>[\w.-]+) +\| (?! )"  # docker compose
    r"|\[?\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d)\]? (?:std(?:out|err) [FP] )?(?!(?:ERROR|INFO|WARNING|DEBUG|CRITICAL)\b)"  # kubelet, docker logs -t
    r"|[A-Z][a-z]{2} [ \d]\d [\d:]{8} [\w.-]+ [\w.@-]+\[\d+\]: )"  # journald
)
PIDS = re.compile(r"(?:\([^()\n]{0,60}?\b(?:pid|rank)=\d+[^()\n]{0,60}\) ?)+")
RANK = re.compile(r"\[(rank\d+)\]:? ?")
VLLM = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL) (\d\d-\d\d \d\d:\d\d:\d\d) (?:\[[^\]\n]*\]|[\w./]+:\d+\]) ?")
SGLANG = re.compile(r"\[\d{4}-(\d\d-\d\d \d\d:\d\d:\d\d)(?:[.,]\d+)?((?: [\w=-]+)*)\] ?(?:(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b[: ] *)?")
GLOG = re.compile(r"(?:\[([IWEF])\d+ [^\]\n]*\]|([IWEF])\d{4} \d\d:\d\d:\d\d[^\]\n]*\]) ?")
DATED = re.compile(r"\d{4}-(\d\d-\d\d)[ T](\d\d:\d\d:\d\d)[.,]?\d*Z?(?: \|| -)? +(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b[ |:-]*")
PLAIN = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL)(?::? +\[[\w.]+\] |: +)")
LETTERS = {"I": "INFO", "W": "WARNING", "E": "ERROR", "F": "CRITICAL"}
BAR = re.compile(r"[^\n]*?(?:\d+%|\d+it)[^\n]{0,160}?\[[\d:]+(?:<[\d:?]+)?, *[^\]\n]*\]|[^|\n]{0,80}\d+%\|[^|\n]*\|[^\n]*$")
GROUP = re.compile(r"^ +(?:\| ?|\+ (?=Exception Group)|\+-[-+]* ?\d* ?-*)")
"""The margin of an exception group's lines."""
STARTS = frozenset("([DIWECF0123456789")


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


def read(path: Path) -> str:
    """The text of a log file, also one that PowerShell wrote (UTF-16). Raises OSError."""
    data = path.read_bytes()
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    return data.decode("utf-16" if wide else "utf-8", errors="replace").removeprefix("\ufeff")


def records(text: str) -> list[LogLine]:
    """Every line of `text` that says something, in order."""
    if "\x1b" in text:
        text = ANSI.sub("", text)
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    return list(_records(text.split("\n")))


def _records(lines: list[str]) -> Iterator[LogLine]:
    new, starts, writers = tuple.__new__, STARTS, dict[str, str]()
    process = ""  # of a line that has no prefix: the writer of the message that it belongs to
    shipped = any(SHIPPED.match(line) for line in lines[:50])
    for number, whole in enumerate(lines, 1):
        for line in _states(whole) if "\r" in whole or "it/s" in whole or "%" in whole else (whole,):
            if not line:
                continue
            host = ""
            if shipped and (sent := SHIPPED.match(line)):
                host, line = sent["host"] or "", line[sent.end() :]
            if line[:1] not in starts:
                yield new(LogLine, (number, process or host, "", "", "", False, line))
                continue
            who, level, stamp, begins, end = _prefix(line, writers)
            if not end:
                yield new(LogLine, (number, process or host, "", "", "", False, line))
                continue
            writer = f"{host} {who}".strip() if host else who
            yield new(LogLine, (number, writer, level, stamp, line[:end], begins, line[end:]))
            process = writer if begins else ""


def _states(line: str) -> Iterator[str]:
    """What is left of a line when the states of a progress bar are taken off."""
    for state in line.split("\r"):
        bar = ("it/s" in state or "s/it" in state or "%|" in state or "% Completed" in state) and BAR.match(state)
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
