"""A log as a file, and what others put before its lines: docker compose, Kubernetes, journald, a quoting mail, a line counter.

Such prefixes are not listed: where tracebacks stand in a log, what stands before `Traceback` and `File` that the engine's own prefix
does not explain is the shape that is taken off every line that has it. Does not cover the engines' own prefixes (`records`).
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from .pastes import mended

MARKS = ("Traceback (most recent call last)", 'File "')
SAMPLES = 400
SHAPES = 8
ROUNDS = 3
BORDER = re.compile(r"[ \t\r:\]>|]+")
NUMBER = re.compile(r"(\d+)")
WIDEST = 120
"""Characters of a line in which a prefix that all lines share is looked for."""
COMMON = 0.95
"""Of the lines that say something."""
CONTROLS = re.compile(r"[\x01-\x06\x0e-\x1a\x1c-\x1f]")
SAMPLE, MOST_CONTROLS = 65536, 0.02
"""Characters that are looked at, and how many of them may be such as no text has."""
HEAD_BYTES, TAIL_BYTES = 16 * 2**20, 48 * 2**20
"""Of a file that is larger than both the middle is left out, but for its line breaks."""


def read(path: Path) -> str:
    """The text of a log file, also one that was compressed by gzip or written by PowerShell (UTF-16). Raises OSError."""
    with path.open("rb") as stream:
        size = path.stat().st_size
        data = stream.read() if size <= HEAD_BYTES + TAIL_BYTES else stream.read(HEAD_BYTES)
        if size > len(data):
            middle = size - HEAD_BYTES - TAIL_BYTES
            data += b"\n" * sum(stream.read(min(2**20, middle - done)).count(b"\n") for done in range(0, middle, 2**20)) + stream.read()
    if data[:2] == b"\x1f\x8b":
        with suppress(EOFError):
            data = gzip.decompress(data)
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    return data.decode("utf-16" if wide else "utf-8", errors="replace").removeprefix("\ufeff")


def is_binary(text: str) -> bool:
    """Whether what was read is no text: an executable, an archive, weights. NULs alone do not tell: shippers of logs leave them."""
    first = text[:SAMPLE].replace("\0", "")
    return len(CONTROLS.findall(first)) > MOST_CONTROLS * max(len(first), 100)


def peeled(lines: list[str], own: Callable[[str], int]) -> Sequence[str]:
    """The lines without what others put before them. `own` tells how long the engine's own prefix of a line is."""
    if lines and lines[0].startswith('{"log":'):
        lines = [_out_of_json(line) for line in lines]
    lines = _without_common(mended(lines, own), own)
    marked = [number for number, line in enumerate(lines) if MARKS[1] in line or MARKS[0] in line][: 4 * SAMPLES]
    for _ in range(ROUNDS):
        shapes = Counter(shape for number in marked[:SAMPLES] if (shape := _shape(lines[number], own)))
        if not shapes:
            break
        pattern = re.compile("|".join(shape for shape, _ in shapes.most_common(SHAPES)))
        lines = [line[found.end() :] if (found := pattern.match(line)) else line for line in lines]
    return lines


def _shape(line: str, own: Callable[[str], int]) -> str:
    """A pattern for what stands before a mark and is not explained, "" for nothing."""
    at = line.find(MARKS[0])
    before = line[:at] if at >= 0 else line[: max(line.find(MARKS[1]) - 2, 0)]
    if not before or before[-1:] not in " \t:]>|)" or (at >= 0 and re.search(r"[A-Za-z]{3,}:? $", before)):
        return ""
    if not before.strip(" |+"):
        return ""
    start = _own_start(line, own, len(before))
    return _general(before[:start])


def _own_start(line: str, own: Callable[[str], int], end: int) -> int:
    """Where in the first `end` characters of a line the engine's own prefix begins, which reaches just to there; else `end`."""
    for start in [0, *(place.end() for place in BORDER.finditer(line, 0, end))]:
        if start + own(line[start:]) >= end:
            return start
    return end


def _general(text: str) -> str:
    """A pattern that fits `text` with other numbers in it."""
    return "".join(r"\d+" if part.isdigit() else re.escape(part) for part in NUMBER.split(text))


def _without_common(lines: list[str], own: Callable[[str], int]) -> list[str]:
    """The lines without what nearly all of them begin with, if that is no engine's own."""
    said = [line for line in lines[: 4 * SAMPLES] if line.strip()][:SAMPLES]
    if len(set(said)) < 2:
        return lines
    shapes: Counter[str] = Counter()
    for line in said:
        places = [place.span() for place in BORDER.finditer(line[:WIDEST])]
        borders = [at for start, end in places for at in {*range(start + 1, min(start + 5, end)), end}]
        if lead := len(line) - len(line.lstrip()):
            borders.append(lead)
        shapes.update({_general(line[:border]) for border in borders})
    common = [shape for shape, count in shapes.items() if count >= COMMON * len(said)]
    pattern = re.compile(max(common, key=len, default="(?!)"))
    sample = next((line for line in said if pattern.match(line)), "")
    found = pattern.match(sample)
    if not found or not (start := _first_own(sample, said, own, found.end())):
        return lines
    outer = re.compile(_general(sample[:start]))
    return [line[taken.end() :] if (taken := outer.match(line)) else line for line in lines]


def _first_own(line: str, all_lines: Sequence[str], own: Callable[[str], int], end: int) -> int:
    """Where an engine's own prefix begins in the first `end` characters of a line and of most others, else `end`."""
    for start in [0, *(place.end() for place in BORDER.finditer(line, 0, end))]:
        if start < end and own(line[start:]) and 2 * sum(1 for other in all_lines if own(other[start:])) >= len(all_lines):
            return start
    return end


def _out_of_json(line: str) -> str:
    """A line of docker's own log files, or as it is."""
    with suppress(ValueError):
        row = json.loads(line)
        return str(row["log"]).rstrip("\n") if isinstance(row, dict) and "log" in row else line
    return line
