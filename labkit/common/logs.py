"""Reading what a server writes: new text since last time, its stages, and the one line that says why it died.

Covers: files on disk that grow. Does not cover: what the lines mean; that is data of each engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ALARM = re.compile(r"\b(ERROR|CRITICAL|[A-Z]\w*(?:Error|Exception)\b|error:)")
NOISE = re.compile(r"^\s*(warnings\.warn|File \"|Traceback|raise |\^+|During handling|The above exception)|For further information visit")
PREFIX = re.compile(r"^\(\w+ pid=\d+\)\s*")


@dataclass(frozen=True)
class Stage:
    """A stretch of an engine's start. It begins with the first log line that `pattern` matches ("" is the very start).

    `cpu_seconds` and `gpu_seconds` say how long it took where it was measured (2 cores; one H200 with the 8B shape and
    empty caches): the expectation until this machine has a start of its own to compare with.
    """

    name: str
    pattern: str
    cpu_seconds: float
    gpu_seconds: float


@dataclass(frozen=True)
class Explanation:
    """A failure that is known: the log line it shows, what it means, what to do. Groups of `pattern` fill {0}, {1} ..."""

    pattern: str
    cause: str
    fix: str


@dataclass(frozen=True)
class LogVerdict:
    """Why a server died, as far as its log says: the line that matters, a cause and a fix ("" when unknown)."""

    line: str
    cause: str
    fix: str


class Follower:
    """Reads files as they grow. `new()` returns the text that came since the last call."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._offsets = dict.fromkeys(paths, 0)

    def new(self) -> str:
        return "".join(self._read(path) for path in self._offsets)

    def _read(self, path: Path) -> str:
        try:
            with path.open("rb") as stream:
                stream.seek(self._offsets[path])
                data = stream.read()
        except FileNotFoundError:
            return ""
        self._offsets[path] += len(data)
        return data.decode(errors="replace")


def tail(path: Path, lines: int) -> str:
    """The last `lines` lines of a file; of a progress bar only the last state."""
    if not path.exists():
        return ""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - 400 * lines - 4096))
        text = stream.read().decode(errors="replace")
    return "\n".join(line.split("\r")[-1] for line in text.splitlines()[-lines:])


def explain(text: str, known: Sequence[Explanation]) -> LogVerdict:
    """The first of the known failures that the log shows, in the order of `known`; else its last alarming line."""
    for explanation in known:
        match = re.search(explanation.pattern, text)
        if match:
            groups = [group or "" for group in match.groups()]
            return LogVerdict(_line_at(text, match.start()), explanation.cause.format(*groups), explanation.fix.format(*groups))
    return LogVerdict(_last_alarm(text), "", "")


def _line_at(text: str, position: int) -> str:
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    return PREFIX.sub("", text[start : end if end >= 0 else None]).strip()[:400]


def _last_alarm(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and not NOISE.search(line)]
    alarms = [line for line in lines if ALARM.search(line)]
    return PREFIX.sub("", (alarms or lines or ["(the log is empty)"])[-1]).strip()[:400]
