"""What copying does to the lines of a log, undone: a margin of Markdown, numbers of lines, lines broken at the width of a terminal.

Every line keeps its number: what is joined to the line before leaves an empty one. Does not cover what shippers of logs put before
lines (`outer`), other characters (`records`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

HEADER = "Traceback (most recent call last)"
COUNTER = re.compile(r" *(\d+)(?:\t|:|\u2192| ?[|\u2502] ?|\. | )")
COUNTED = 0.9
"""Of the lines that say something."""
SAMPLES = 200
"""Lines that tell how the others are."""
NARROWEST, WIDEST = 40, 400
"""Widths of a terminal."""
USUAL = frozenset([80, 100, 120, 132, 160, 200])
LONGER = 0.05
"""Of the rows of full width: so many may be longer (words that stand around a log)."""
SHARED = 0.2
"""Of all rows: if so many begin alike, that is the beginning of a line."""
ALIKE = 6
"""Characters by which beginnings are compared."""
PLENTY = 5
"""Rows of full width that leave no doubt that also frames without their blanks were broken."""
FRAME = re.compile(r'File "[^"]+", line \d+, in \S+')
BEGINS = re.compile(
    r'\s+File "|\s*[~^][~^ ]*$|\s*$|Traceback \(|The above exception|During handling|usage: |\s*\d+%|\S+:? +\d+%\||```|</'
    r"|(?:DEBUG|INFO|WARNING|ERROR|CRITICAL|SIGQUIT|Received|Killed|Aborted|Please|Exception|Process|Try)\b"
    r"|\([^)]* pid=\d+|\[\d{4}-\d\d-\d\d|\S*[$#] |[A-Za-z_][\w.]*(?:Error|Exception)(?:: |$)"
)
"""What a line begins with that is no rest of another."""


def mended(lines: list[str], own: Callable[[str], int]) -> list[str]:
    """The lines as the program wrote them. `own` tells how long the engine's own prefix of a line is."""
    return _without_margin(_rejoined(_uncounted(lines), own), own)


def _uncounted(lines: list[str]) -> list[str]:
    """Without the numbers of lines, as an editor, `cat -n` or `grep -n` shows them."""
    first = [line for line in lines[: 2 * SAMPLES] if line.strip()][:SAMPLES]
    if sum(1 for line in first if COUNTER.match(line)) < COUNTED * len(first):
        return lines
    counted = [COUNTER.match(line) for line in lines]
    numbers = [int(found[1]) for found in counted if found]
    if len(numbers) < max(2, COUNTED * sum(1 for line in lines if line.strip())):
        return lines
    steps = sum(1 for one, other in zip(numbers, numbers[1:], strict=False) if other == one + 1)
    if steps < COUNTED * (len(numbers) - 1):
        return lines
    return [line[found.end() :] if found else line for line, found in zip(lines, counted, strict=True)]


def _without_margin(lines: list[str], own: Callable[[str], int]) -> list[str]:
    """Without the blanks that stand before all lines of a log, though perhaps not before the words around it."""
    margin = WIDEST
    for line in lines:
        bare = line.lstrip()
        if bare and (bare.startswith(HEADER) or own(bare)):
            margin = min(margin, len(line) - len(bare))
            if not margin:
                return lines
    if margin == WIDEST:
        said = [line for line in lines if line.strip()]
        margin = min((len(line) - len(line.lstrip()) for line in said), default=0)
    blanks = tuple({line[:margin] for line in lines if not line[:margin].strip() and len(line) > margin})
    return [line[margin:] if line.startswith(blanks) else line for line in lines] if margin and blanks else lines


def _rejoined(lines: list[str], own: Callable[[str], int]) -> list[str]:
    """With the rows joined that a terminal made of one line. Where no width is common to the longest rows nothing is joined."""
    widths = Counter(map(len, set(lines)))
    padded = len(lines) > 1 and widths.most_common(1)[0][1] >= 0.9 * widths.total() and any(line.endswith("  ") for line in lines)
    width = widths.most_common(1)[0][0] if padded else _width(widths)
    if not NARROWEST <= width <= WIDEST:
        return lines
    rows = [line.rstrip() for line in lines] if padded else lines
    beginnings = Counter(_beginning(row) for row in rows)
    plenty = widths[width] >= PLENTY
    most = max(SHARED * len(rows), 2)
    joined, whole, at, prefixed = list(rows), "", 0, False
    for number, row in enumerate(rows):
        full = number > 0 and len(rows[number - 1]) in (width, width - 1 if padded or prefixed else width)
        if (
            full
            and (widths[width] > 1 or not row[:1].isupper())
            and (plenty or not FRAME.fullmatch(whole))
            and _continues(row, prefixed, own)
            and beginnings[_beginning(row)] <= most
        ):
            whole += " " * (width - len(rows[number - 1])) + row
            joined[at], joined[number] = whole, ""
        else:
            at, whole = number, row
            prefixed = len(row) > NARROWEST / 2 and row[:1] == "(" and bool(own(row))
    return joined


def _width(widths: Counter[int]) -> int:
    """The width at which lines were broken, 0 where they were not."""
    full = [width for width, count in widths.items() if NARROWEST <= width <= WIDEST and (count > 1 or width in USUAL)]
    for width in sorted(full, key=lambda width: -widths[width]):
        longer = sum(count for other, count in widths.items() if other > width)
        if longer <= LONGER * widths[width]:
            return width
    return 0


def _beginning(row: str) -> str:
    return re.sub(r"\d", "0", row[:ALIKE])


def _continues(row: str, prefixed: bool, own: Callable[[str], int]) -> bool:
    """Whether a row may be the rest of the row before. `prefixed`: every line of that writer has a prefix, as vLLM's have."""
    if not row.strip() or own(row):
        return False
    return prefixed or not (BEGINS.match(row) or row.startswith("  "))
