"""The documents against the code and against each other: names that they tell the reader to type, and two languages in step."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import nbformat
import pytest
from labkit_names import misnamed

from labkit.words import parser

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = re.compile(r"`([^`]+)`")
FROM_AN_INDEX = re.compile(r"pip3?\s+install\b[^\n`]*?(?<![\w./-])labkit(?![\w./-])")
"""labkit asked of a package index; a path to the clone (`-e .`, `./labkit`) is none."""


def tables(path: Path) -> list[list[str]]:
    """The rows of each table, heads and rulers included."""
    found: list[list[str]] = [[]]
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [rows for rows in found if rows]


def typed(row: str) -> list[str]:
    """What a row has between backticks, with placeholders made equal."""
    return sorted(re.sub(r"<[^>]*>", "<>", span) for span in CODE.findall(row))


@pytest.mark.parametrize("name", ["README", "docs/troubleshooting"])
def test_both_languages_have_the_same_rows_and_commands(name: str) -> None:
    english, chinese = tables(ROOT / f"{name}.md"), tables(ROOT / f"{name}.zh.md")
    assert [len(rows) for rows in english] == [len(rows) for rows in chinese]
    for one, other in zip(sum(english, []), sum(chinese, []), strict=True):
        assert typed(one) == typed(other), f"{one}\n{other}"


def test_every_word_of_lab_that_is_named_exists() -> None:
    words = {name for action in parser()._actions if isinstance(action, argparse._SubParsersAction) for name in action.choices}
    for path in DOCUMENTS:
        named = set(re.findall(r"\./lab ([a-z][a-z-]*)", path.read_text(encoding="utf-8")))
        assert named <= words, f"{path.name}: {named - words}"


def test_every_setting_that_is_named_is_read_somewhere() -> None:
    sources = "".join(path.read_text() for path in [ROOT / "lab", *(ROOT / "labkit").rglob("*.py")])
    for path in DOCUMENTS:
        for name in set(re.findall(r"\bLABKIT_[A-Z_]+[A-Z]\b", path.read_text(encoding="utf-8"))):
            assert name in sources or (name.startswith("LABKIT_RUNTIME_") and '"LABKIT_RUNTIME_"' in sources), f"{path.name}: {name}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_names_is_there(path: Path) -> None:
    assert misnamed(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", [*DOCUMENTS, *sorted((ROOT / "notebooks").glob("*.ipynb"))], ids=lambda path: path.name)
def test_nobody_is_told_to_take_labkit_from_an_index(path: Path) -> None:
    """The `labkit` on PyPI is somebody else's."""
    assert FROM_AN_INDEX.findall(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line", ["pip install labkit", "%pip install -U labkit", "uv pip install 'labkit[dev]'", "pip3 install -q httpx labkit==0.1"]
)
def test_that_line_would_be_seen(line: str) -> None:
    assert FROM_AN_INDEX.search(line) and not FROM_AN_INDEX.search(line.replace("labkit", "-e /root/labkit"))


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_the_clone_is_not_called_as_the_package_or_its_data_home(name: str) -> None:
    clones = re.findall(r"git clone <[^>]+> (\S+) && cd (\S+)", (ROOT / name).read_text(encoding="utf-8"))
    assert clones and all(made == entered and made not in ("labkit", "labkit-data") for made, entered in clones)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_what_a_notebook_names_is_there(path: Path) -> None:
    assert misnamed("\n".join(cell.source for cell in nbformat.read(path, 4).cells)) == []
