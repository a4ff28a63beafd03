"""The notebook contract: one tag a cell, prose in both languages, outputs of check cells only, small files."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import papermill
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
KINDS = {"parameters", "setup", "act", "show", "check", "exercise", "teardown"}
CHINESE = re.compile(r"[一-鿿]")
ENGLISH = re.compile(r"\b(the|a|is|it|and|of|to|you|what|in|for)\b", re.IGNORECASE)
CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.name)
def notebook(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    return nbformat.read(request.param, 4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell: nbformat.NotebookNode) -> set[str]:
    return KINDS & set(cell.metadata.get("tags", []))


def test_the_course_is_there() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]


def test_it_is_valid_and_names_the_kernel(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "labkit"


def test_each_code_cell_has_one_kind(notebook: nbformat.NotebookNode) -> None:
    assert [cell.id for cell in code_cells(notebook) if len(kinds(cell)) != 1] == []


def test_the_first_code_cell_holds_literal_parameters(notebook: nbformat.NotebookNode) -> None:
    first = code_cells(notebook)[0]
    assert kinds(first) == {"parameters"}
    for statement in ast.parse(first.source).body:
        assert isinstance(statement, ast.Assign | ast.AnnAssign)
        ast.literal_eval(statement.value)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_every_parameter_can_be_set_from_outside(path: Path) -> None:
    """papermill reads the cell line by line: a line with two equals signs would be no parameter to it."""
    tree = ast.parse(code_cells(nbformat.read(path, 4))[0].source)
    targets = [target for line in tree.body for target in (line.targets if isinstance(line, ast.Assign) else [line.target])]  # type: ignore[attr-defined]
    assert list(papermill.inspect_notebook(path)) == [ast.unparse(target) for target in targets]


def test_checks_are_compared_and_have_short_outputs(notebook: nbformat.NotebookNode) -> None:
    checks = [cell for cell in code_cells(notebook) if "check" in kinds(cell)]
    assert checks, "a notebook without a check teaches nothing that a machine could confirm"
    for cell in checks:
        assert "nbval-check-output" in cell.metadata.tags and cell.execution_count
        text = "".join(output.get("text", "") for output in cell.outputs)
        assert text and len(text.splitlines()) <= 20 and not re.search(r"\d (s|ms|MB|GB|MiB|GiB)\b|/root|/home|/tmp", text), text


def test_other_cells_have_no_outputs(notebook: nbformat.NotebookNode) -> None:
    others = [cell for cell in code_cells(notebook) if "check" not in kinds(cell)]
    assert [cell.id for cell in others if cell.outputs or cell.execution_count] == []


def test_prose_is_english_and_chinese_in_the_same_cell(notebook: nbformat.NotebookNode) -> None:
    for cell in (cell for cell in notebook.cells if cell.cell_type == "markdown"):
        prose = CODE.sub("", cell.source)
        assert CHINESE.search(prose), f"{cell.id}: no Chinese"
        assert ENGLISH.search(prose) or len(prose.split()) < 12, f"{cell.id}: no English"
        assert not CHINESE.search(prose.splitlines()[0]) or ENGLISH.search(prose.splitlines()[0]) or "·" in prose.splitlines()[0], (
            f"{cell.id}: English comes first"
        )


def test_it_imports_packages_of_labkit_and_nothing_deeper(notebook: nbformat.NotebookNode) -> None:
    """A module below a package may move; the names that a package lists stay."""
    nodes = [node for cell in code_cells(notebook) for node in ast.walk(ast.parse(cell.source))]
    modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    assert [name for name in modules if name.startswith("labkit.")] == [] and "labkit" in modules


def test_nothing_in_it_breaks_nbval(notebook: nbformat.NotebookNode) -> None:
    source = "\n".join(cell.source for cell in code_cells(notebook))
    for forbidden in ("clear_output", "display_id", "widgets.Output", "os.system", "shell=True", "%cd", "!pip"):
        assert forbidden not in source


def test_it_ends_with_teardown_or_a_check(notebook: nbformat.NotebookNode) -> None:
    assert kinds(code_cells(notebook)[-1]) & {"teardown", "check"}
