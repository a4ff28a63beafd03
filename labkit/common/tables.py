"""A table of text for both places where a result shows itself: aligned columns in a terminal, HTML in a notebook.

The first row is the heading. Used by everything that measures or compares, in notebooks 03 to 06.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

Rows = Sequence[Sequence[str]]


def plain(rows: Rows) -> str:
    """The rows as lines: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(_line(row, widths) for row in rows)


def left(rows: Rows) -> str:
    """The rows as lines, every column to the left: words rather than figures."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def as_html(rows: Rows, caption: str = "") -> str:
    """The rows as one HTML table with `caption` below it; everything is escaped."""
    below = f'<caption style="caption-side:bottom;text-align:left">{html.escape(caption)}</caption>' if caption else ""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f"<table>{below}<tr>{head}</tr>{body}</table>"


def escaped(text: str) -> str:
    """`text` for HTML."""
    return html.escape(text)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = [
        cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join([first, *others]).rstrip()
