"""One table, twice: aligned in a terminal, escaped in a notebook."""

from __future__ import annotations

from labkit.common import tables

ROWS = [("name", "tokens"), ("a <b>", "7"), ("c", "12,000")]


def test_the_first_column_stands_left_and_the_others_right() -> None:
    assert tables.plain(ROWS).splitlines() == ["name   tokens", "a <b>       7", "c      12,000"]


def test_html_is_escaped_and_the_caption_stands_below() -> None:
    shown = tables.as_html(ROWS, "n < 3")
    assert "<th>name</th><th>tokens</th>" in shown and "<td>a &lt;b&gt;</td><td>7</td>" in shown
    assert '<caption style="caption-side:bottom;text-align:left">n &lt; 3</caption>' in shown
    assert "caption" not in tables.as_html(ROWS)
