"""The failures that are known, as data: catalogue/*.toml, one file for each home (torch, cuda, hub, system, vllm, ssh, ...).

    [[failure]]
    id = "no-c-compiler"                    # kebab-case, unique over all files
    said_by = ["vllm", "sglang"]            # who can say it; left out: anybody
    section = "start"                       # of docs/troubleshooting.md; left out: not shown there
    type = "RuntimeError|InductorError"     # fullmatch on the exception's class, without its module (`deaths.DEATHS` for other ends)
    module = 'triton\\..*'                  # fullmatch on the dotted module that raised it
    function = 'bind'                       # fullmatch on the function that raised it
    within = 'huggingface_hub\\..*'          # fullmatch on the dotted module of any of its frames
    source = '.*os.getenv.*'                # fullmatch on the statement that raised it
    message = 'Failed to find C compiler'   # searched in its own message; named groups fill {name}
    beside = 'Python\\.h'                   # searched in what compilers and NCCL wrote besides; named groups too
    phase = ["weights"]                     # only while this stage was running (`phases.PHASES`)
    example = ["RuntimeError: Failed ..."]  # lines as somebody printed them: the tests hold the patterns against them
    see = { en = "...", zh = "..." }        # what the reader sees, for the page; one text where both are equal
    cause = { en = "...", zh = "..." }
    fix = { en = "...", zh = "..." }

A row without `message` (and `beside`) belongs to no log line: it is for the page. A sentence with a {name} that did not match is not used.
Groups whose name ends in _cuda, _arch or _bytes are decoded: 12080 is 12.8, 120a is 12.0, 33030528 is 33.0 MB. {engine}, {share},
{context}, {batch}, {tensor} and {eager} are the engine and its words for a flag (`wording`).

Does not cover choosing one of them (`verdicts`), writing the page (`pages`).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("catalogue")
HOMES = ("ssh", "settings", "vllm", "sglang", "open_webui", "tools", "hub", "cuda", "system", "torch")
"""The order in which files are searched: what is narrow before what is broad. Others come after them, by name."""


PATTERNS = ("type", "module", "function", "within", "source", "message", "beside")


@dataclass(frozen=True)
class Words:
    """One text in both languages."""

    en: str = ""
    zh: str = ""

    def of(self, language: str) -> str:
        return self.zh if language == "zh" else self.en


@dataclass(frozen=True)
class KnownFailure:
    """One row of the catalogue. `home` is the name of its file."""

    id: str
    home: str
    cause: Words
    fix: Words
    see: Words
    said_by: tuple[str, ...] = ()
    section: str = ""
    type: re.Pattern[str] | None = None
    module: re.Pattern[str] | None = None
    function: re.Pattern[str] | None = None
    within: re.Pattern[str] | None = None
    source: re.Pattern[str] | None = None
    message: re.Pattern[str] | None = None
    beside: re.Pattern[str] | None = None
    phase: tuple[str, ...] = ()
    example: tuple[str, ...] = ()

    @property
    def is_said(self) -> bool:
        """Whether a log can show it."""
        return self.message is not None or self.beside is not None


@cache
def failures() -> tuple[KnownFailure, ...]:
    """The whole catalogue, file after file. Raises ValueError for a row that is not as described above."""
    paths = sorted(FOLDER.glob("*.toml"), key=lambda path: (HOMES.index(path.stem) if path.stem in HOMES else len(HOMES), path.stem))
    rows = [_failure(path.stem, row) for path in paths for row in _rows(path)]
    twice = {row.id for row in rows if [other.id for other in rows].count(row.id) > 1}
    if twice:
        raise ValueError(f"catalogue: twice: {', '.join(sorted(twice))}")
    return tuple(rows)


def of_engine(engine: str) -> list[KnownFailure]:
    """What `engine` can say; "" for one that is not known."""
    return [row for row in failures() if row.is_said and (not row.said_by or engine in row.said_by)]


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as stream:
        rows: list[dict[str, Any]] = tomllib.load(stream).get("failure", [])
    return rows


def _failure(home: str, row: Mapping[str, Any]) -> KnownFailure:
    known = {*PATTERNS, "id", "said_by", "section", "phase", "example", "see", "cause", "fix"}
    if unknown := row.keys() - known:
        raise ValueError(f"catalogue/{home}.toml, {row.get('id')}: unknown keys {sorted(unknown)}")
    try:
        patterns = {name: re.compile(row[name]) for name in PATTERNS if name in row}
    except re.error as error:
        raise ValueError(f"catalogue/{home}.toml, {row.get('id')}: {error}") from error
    lists = {name: tuple(row.get(name, ())) for name in ("said_by", "phase", "example")}
    words = {name: _words(row.get(name, "")) for name in ("see", "cause", "fix")}
    return KnownFailure(id=row["id"], home=home, section=row.get("section", ""), **words, **lists, **patterns)  # type: ignore[arg-type]


def _words(value: str | Mapping[str, str]) -> Words:
    return Words(value, value) if isinstance(value, str) else Words(value["en"], value["zh"])
