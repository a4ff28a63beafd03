"""Doctor's table: lines of name, value, verdict and fix; how it shows in a terminal and in a notebook. The lines are `checkup`'s."""

from __future__ import annotations

import html
import shutil
import textwrap
from dataclasses import dataclass

OK, WARN, BLOCK = "ok", "warn", "block"
COLOURS = {OK: "#2e9e5b", WARN: "#b7791f", BLOCK: "#c9372c"}


@dataclass(frozen=True)
class Line:
    """One row: what was looked at, what was seen, the verdict, and what to do ("" when nothing)."""

    name: str
    value: str
    verdict: str = OK
    fix: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Doctor's table."""

    lines: tuple[Line, ...]

    @property
    def exit_code(self) -> int:
        """1 when something blocks the course, else 0."""
        return int(any(line.verdict == BLOCK for line in self.lines))

    @property
    def verdict(self) -> str:
        """The worst verdict of all lines."""
        return max((line.verdict for line in self.lines), key=[OK, WARN, BLOCK].index)

    def text(self) -> str:
        """The table for a terminal, fixes below their lines, folded to its width."""
        width = max(shutil.get_terminal_size((120, 24)).columns, 60)
        names = max(len(line.name) for line in self.lines)
        indent = " " * (names + 9)
        parts = []
        for line in self.lines:
            head = f"{line.verdict:<5}  {line.name:<{names}}  "
            parts.append(textwrap.fill(line.value, width, initial_indent=head, subsequent_indent=indent, break_on_hyphens=False))
            if line.fix:
                parts.append(
                    textwrap.fill(f"-> {line.fix}", width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
                )
        return "\n".join([*parts, "", self._summary()])

    def _summary(self) -> str:
        count = {verdict: sum(line.verdict == verdict for line in self.lines) for verdict in (BLOCK, WARN)}
        if count[BLOCK]:
            return f"{count[BLOCK]} of {len(self.lines)} lines block the course · 有 {count[BLOCK]} 项必须先解决"
        return f"Nothing blocks the course; {count[WARN]} to look at · 可以开始，{count[WARN]} 项建议看一下"

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><td style="color:{COLOURS[line.verdict]};font-weight:600;text-align:left">{line.verdict}</td>'
            f'<td style="text-align:left;white-space:nowrap">{html.escape(line.name)}</td>'
            f'<td style="text-align:left">{html.escape(line.value)}</td><td style="text-align:left">{html.escape(line.fix)}</td></tr>'
            for line in self.lines
        )
        heads = "".join(f'<th style="text-align:left">{word}</th>' for word in ("verdict", "what · 项目", "seen · 现状", "to do · 处理"))
        return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table><p>{html.escape(self._summary())}</p>"

    def __repr__(self) -> str:
        return self.text()
