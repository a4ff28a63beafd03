"""A log as records: who said each line, when, how loud, and what, without the prefixes that loggers and containers put before it.

    records("(EngineCore pid=7) ERROR 11-26 10:00:00 [core.py:700] RuntimeError: x")
    -> [Record(number=1, process="EngineCore pid=7", level="ERROR", stamp="11-26 10:00:00", head=..., text="RuntimeError: x")]

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
PREFIX = re.compile(
    r"(?P<pids>(?:\([^()\n]{0,60}?\b(?:pid|rank)=\d+[^()\n]{0,60}\) ?)+)?"
    r"(?:\[(?P<rank>rank\d+)\]:? ?)?"
    r"(?:"
    r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) (?P<stamp>\d\d-\d\d \d\d:\d\d:\d\d) (?:\[(?P<file>[^\]\n]*)\]|(?P<bare>[\w./]+:\d+\])) ?"
    r"|\[(?P<date>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:[.,]\d+)?(?P<who>(?: [\w=-]+)*)\] ?(?:(?P<loud>DEBUG|INFO|WARNING|ERROR|CRITICAL)\b[: ] *)?"
    r"|\[(?P<glog>[IWEF])\d+ [^\]\n]*\] ?"
    r"|(?P<klog>[IWEF])\d{4} \d\d:\d\d:\d\d[^\]\n]*\] ?"
    r"|(?P<iso>\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)[.,]?\d*Z?(?: \|| -)? +(?P<shout>DEBUG|INFO|WARNING|ERROR|CRITICAL)\b[ |:-]*"
    r"|(?P<plain>DEBUG|INFO|WARNING|ERROR|CRITICAL)(?::? +\[[\w.]+\] |: +)"
    r")?"
)
LETTERS = {"I": "INFO", "W": "WARNING", "E": "ERROR", "F": "CRITICAL"}
BAR = re.compile(r"[^\n]*?(?:\d+%|\d+it)[^\n]{0,160}?\[[\d:]+(?:<[\d:?]+)?, *[^\]\n]*\]|[^|\n]{0,80}\d+%\|[^|\n]*\|[^\n]*$")
GROUP = re.compile(r"^ +(?:\| ?|\+ (?=Exception Group)|\+-[-+]* ?\d* ?-*)")
"""The margin of an exception group's lines."""
STARTS = frozenset("([DIWECF0123456789")


class Record(NamedTuple):
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


def records(text: str) -> list[Record]:
    """Every line of `text` that says something, in order."""
    if "\x1b" in text:
        text = ANSI.sub("", text)
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    return list(_records(text.split("\n")))


def _records(lines: list[str]) -> Iterator[Record]:
    match, starts = PREFIX.match, STARTS
    process = ""  # of a line that has no prefix: the writer of the message that it belongs to
    shipped = any(SHIPPED.match(line) for line in lines[:50])
    for number, whole in enumerate(lines, 1):
        for line in whole.split("\r") if "\r" in whole or "%" in whole or "it/s" in whole else (whole,):
            if ("%|" in line or "it/s" in line or "s/it" in line or "% Completed" in line) and BAR.match(line):
                line = BAR.sub("", line, 1)
            if not line:
                continue
            host = ""
            if shipped and (sent := SHIPPED.match(line)):
                host, line = sent["host"] or "", line[sent.end() :]
            if line[:1] in starts and (found := match(line)) and (end := found.end()):
                pids, level, stamp, begins, who = _facts(found)
                head = line[:end]
                process = f"{host} {who}".strip() if who or begins or host else ""
                yield Record(number, process if who or begins else host, level, stamp, head, begins, line[end:])
                process = process if begins else ""
            else:
                yield Record(number, process or host, "", "", "", False, line)


def _facts(found: re.Match[str]) -> tuple[str, str, str, bool, str]:
    """Of a prefix: the pids, the level, the time, whether it stands on a message's first line alone, and the writer."""
    pids = (found["pids"] or "").strip()
    who = " ".join(part.strip("() ") for part in pids.split(")") if part.strip()) or found["rank"] or ""
    if found["level"]:
        return pids, found["level"], found["stamp"], False, who
    if found["date"]:
        return pids, found["loud"] or "", found["date"][5:], True, who or found["who"].strip() or "main"
    if found["iso"]:
        return pids, found["shout"], found["iso"][5:].replace("T", " "), True, who or "main"
    if found["plain"]:
        return pids, found["plain"], "", True, who
    return pids, LETTERS.get(found["glog"] or found["klog"] or "", ""), "", False, who
