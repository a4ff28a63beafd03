"""What labkit's docstrings, comments and messages call by name is there. A file that fails names something that moved or went."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import pytest
from labkit_names import PACKAGE, misnamed, module_name, stands


def words(path: Path) -> tuple[str, set[str]]:
    """The strings and comments of a file, and what its code itself calls something."""
    text = path.read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments_and_names = [token for token in tokens if token.type in (tokenize.COMMENT, tokenize.NAME)]
    strings = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    comments = [token.string for token in comments_and_names if token.type == tokenize.COMMENT]
    return "\n".join(strings + comments), {token.string for token in comments_and_names if token.type == tokenize.NAME}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_name)
def test_what_is_named_is_there(path: Path) -> None:
    text, own = words(path)
    assert misnamed(text, own) == []


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("labkit.serve", True),
        ("labkit.serving.server.Server.stop", True),
        ("serving.Server", True),
        ("server.stop", True),
        ("training.json", True),
        ("labkit.fetch", False),
        ("host.doctor", False),
        ("server.Server.begin", False),
        ("evaluation.incidents.nonsense", False),
    ],
)
def test_what_counts_as_there(name: str, there: bool) -> None:
    assert stands(name) is there


def test_a_retired_module_is_told_from_a_word_of_the_file_itself() -> None:
    assert misnamed("`plots` draws it, `report` tells it", {"report"}) == ["plots"]
    assert misnamed("docs/no_such_page.md, `labkit.plots.draw(x)`, `python -m labkit.fetch`") == [
        "docs/no_such_page.md",
        "labkit.fetch",
        "labkit.plots.draw",
    ]
