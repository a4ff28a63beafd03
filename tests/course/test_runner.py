"""The headless run: names, parameters, copies of what passed and of what failed, and the authors' bless."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from labkit.common.errors import SettingError
from labkit.course import runner as module
from labkit.course.runner import find, run, write_checks


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two small notebooks; the second fails if its parameter says so."""
    cell = nbformat.v4.new_code_cell
    first = [
        cell("name = 'a'  # who", metadata={"tags": ["parameters"]}),
        cell("print(name)", metadata={"tags": ["check", "nbval-check-output"]}),
    ]
    second = [
        cell("bad = False", metadata={"tags": ["parameters"]}),
        cell("assert not bad, 'it was asked for'", metadata={"tags": ["act"]}),
    ]
    for number, cells in (("01_a", first), ("02_b", second)):
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / f"{number}.ipynb")
    monkeypatch.setattr(module, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(module, "KERNEL", "python3")
    monkeypatch.setenv("LABKIT_OWNER", "lab")
    return tmp_path


def summary(out: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads(next(out.glob("*/summary.json")).read_text())
    return content


def test_all_or_some_in_course_order(course: Path) -> None:
    assert [path.name for path in find([])] == ["01_a.ipynb", "02_b.ipynb"]
    assert [path.name for path in find(["02", "01"])] == ["01_a.ipynb", "02_b.ipynb"]
    with pytest.raises(SettingError, match="99"):
        find(["99"])


def test_a_run_leaves_copies_html_and_a_summary(course: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run([], parameters={"name": "b"}, out=tmp_path / "out") == 0
    assert "without encryption" not in capfd.readouterr().err
    folder = next((tmp_path / "out").iterdir())
    assert sorted(path.name for path in folder.iterdir()) == ["01_a.html", "01_a.ipynb", "02_b.html", "02_b.ipynb", "summary.json"]
    assert summary(tmp_path / "out")["passed"] is True
    assert nbformat.read(folder / "01_a.ipynb", 4).cells[-1].outputs[0].text == "b\n"


def test_a_failure_stops_and_is_kept(course: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run([], parameters={"bad": "True"}, out=tmp_path / "out") == 1
    outcome = summary(tmp_path / "out")["notebooks"][1]  # type: ignore[index]
    assert outcome["error"] == "AssertionError: it was asked for" and Path(outcome["executed"]).exists()


@pytest.mark.parametrize(("wrong", "code"), [("False", 0), ("True", 1)])
def test_a_check_that_is_not_true_fails_the_notebook(course: Path, tmp_path: Path, wrong: str, code: int) -> None:
    """What is False in the clone, too, is as it should be."""
    cells = [
        nbformat.v4.new_code_cell("wrong = False", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("print('text came:', not wrong)\nprint('key shown:', False)", metadata={"tags": [module.CHECK_TAG]}),
    ]
    cells[1].outputs = [nbformat.v4.new_output("stream", name="stdout", text="text came: True\nkey shown: False\n")]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), course / "03_c.ipynb")
    assert run(["03"], parameters={"wrong": wrong}, out=tmp_path / "out") == code
    outcome = summary(tmp_path / "out")["notebooks"][0]  # type: ignore[index]
    assert outcome["passed"] is not bool(code) and ("text came: True" in outcome["error"]) is bool(code)
    assert "key shown" not in outcome["error"]
    assert run(["03"], parameters={"wrong": wrong}, out=tmp_path / "blessed", bless=True) == 0


def test_a_parameter_that_no_notebook_has_is_refused(course: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"parameter nmae\.\n.*There are: bad, name\."):
        run([], parameters={"nmae": "b", "name": "b"}, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bless_keeps_the_outputs_of_checks_only(course: Path, tmp_path: Path) -> None:
    run(["01"], out=tmp_path / "out")
    write_checks(course / "01_a.ipynb", next((tmp_path / "out").glob("*/01_a.ipynb")))
    parameters, check = nbformat.read(course / "01_a.ipynb", 4).cells
    assert (parameters.outputs, parameters.execution_count) == ([], None)
    assert (check.outputs[0].text, check.execution_count) == ("a\n", 1)
