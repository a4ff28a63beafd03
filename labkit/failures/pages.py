"""docs/troubleshooting.md and its Chinese twin, written from the catalogue: what the pages say is what an explanation says.

    python -m labkit.failures.pages docs        writes both (a test holds them against the catalogue)

The rows of a section stand in the order of the catalogue; headings are in sections.toml.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from .known import KnownFailure, Words, failures
from .wording import outlined

SECTIONS = Path(__file__).with_name("sections.toml")
FILES = {"en": "troubleshooting.md", "zh": "troubleshooting.zh.md"}
TOP = Words(
    "# Troubleshooting\n\n[中文](troubleshooting.zh.md). `./lab doctor` first: it names most of what follows, with the fix.\n",
    "# 常见问题\n\n[English](troubleshooting.md)。先跑 `./lab doctor`：下面大部分它都会指出，并给出改法。\n",
)
HEAD = Words("| you see | why | do |\n|---|---|---|\n", "| 现象 | 原因 | 怎么办 |\n|---|---|---|\n")
NOTE = Words(
    "<!-- Written by `python -m labkit.failures.pages docs` from labkit/failures/catalogue: change it there. -->\n",
    "<!-- 由 `python -m labkit.failures.pages docs` 根据 labkit/failures/catalogue 生成：请改那里。 -->\n",
)


def page(language: str) -> str:
    """The whole page in one language."""
    with SECTIONS.open("rb") as stream:
        sections = tomllib.load(stream)["section"]
    parts = [TOP.of(language), NOTE.of(language)]
    for section in sections:
        rows = [row for row in failures() if row.section == section["name"]]
        intro = f"{section['intro'][language]}\n\n" if "intro" in section else ""
        lines = "".join(f"| {' | '.join(_cells(row, language))} |\n" for row in rows)
        parts.append(f"\n## {section['title'][language]}\n{intro}{HEAD.of(language)}{lines}")
    return "".join(parts)


def section_names() -> list[str]:
    """The names that a row's `section` may have."""
    with SECTIONS.open("rb") as stream:
        return [section["name"] for section in tomllib.load(stream)["section"]]


def _cells(row: KnownFailure, language: str) -> list[str]:
    return [_cell(words.of(language), language) for words in (row.see, row.cause, row.fix)]


def _cell(text: str, language: str) -> str:
    """A text as a cell of a table, without the stop at its end."""
    plain = outlined(text, language).replace("|", "\\|").replace("<think>", "`<think>`")
    return plain if plain.endswith("...") else plain.removesuffix("。").removesuffix(".")


def main(folder: str) -> None:
    """Write both pages into `folder`."""
    for language, name in FILES.items():
        (Path(folder) / name).write_text(page(language), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
