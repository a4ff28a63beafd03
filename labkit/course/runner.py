"""Runs the course headless: papermill over the notebooks, executed copies, HTML, one summary for machines.

Covers: one profile, one batch, in order; checks that must be True. Does not cover: comparing whole outputs with the committed ones (that
is nbval, see `course.testing`). Used by instructors and by newcomers through `./lab run`.
"""

from __future__ import annotations

import ast
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..common import files
from ..common.errors import SettingError

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
RUNS = NOTEBOOKS.parent / "runs"
KERNEL = "labkit"
CELL_SECONDS = 3600
CHECK_TAG = "nbval-check-output"


@dataclass(frozen=True)
class Outcome:
    """How one notebook went. `cells` counts code cells that ran, `error` says what failed: a cell's own message, or checks."""

    notebook: str
    passed: bool
    seconds: float
    cells: int
    error: str = ""
    executed: str = ""


def run(
    names: list[str],
    *,
    profile: str = "auto",
    parameters: dict[str, str] | None = None,
    out: str | Path = RUNS,
    keep_going: bool = False,
    bless: bool = False,
) -> int:
    """Execute the notebooks whose names begin with `names` (all if empty); returns 0 if every one passed, else 1.

    A check that prints anything but the True of the notebook in the clone fails it, at its end; with `bless` nothing is compared.
    Writes OUT/<time>/: each executed notebook (also a failed one, up to the failing cell), an HTML page of it, and
    summary.json. Servers that a notebook starts end with its kernel. Raises `SettingError` for a name or a parameter that
    fits no notebook.
    """
    chosen = find(names)
    _require_known(parameters or {}, chosen)
    folder = Path(out).absolute() / time.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    os.environ["LABKIT_OWNER"] = "kernel"
    if profile != "auto":
        os.environ["LABKIT_PROFILE"] = profile
    outcomes = []
    for path in chosen:
        print(f"--- {path.name}", flush=True)
        outcomes.append(_execute(path, folder, parameters or {}, checked=not bless))
        if outcomes[-1].passed and bless:
            write_checks(path, folder / path.name)
        if not outcomes[-1].passed and not keep_going:
            break
    _summarise(folder, outcomes, profile)
    return 0 if all(outcome.passed for outcome in outcomes) and len(outcomes) == len(chosen) else 1


def find(names: list[str]) -> list[Path]:
    """The notebooks whose file names begin with one of `names`, in course order."""
    every = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    unknown = [name for name in names if not any(path.name.startswith(name) for path in every)]
    if unknown:
        raise SettingError(f"No notebook begins with {', '.join(unknown)}.", f"There are: {', '.join(path.name for path in every)}.")
    return [path for path in every if not names or any(path.name.startswith(name) for name in names)]


def _require_known(parameters: dict[str, str], chosen: list[Path]) -> None:
    known = set().union(*map(_parameters, chosen))
    if unknown := parameters.keys() - known:
        raise SettingError(f"No notebook has a parameter {', '.join(sorted(unknown))}.", f"There are: {', '.join(sorted(known))}.")


def write_checks(source: Path, executed: Path) -> None:
    """Copy the outputs of the check cells from `executed` into `source` and drop all others: for authors."""
    import nbformat

    notebook, ran = nbformat.read(source, 4), nbformat.read(executed, 4)
    fresh = {cell.id: cell for cell in ran.cells}
    count = 0
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        check = CHECK_TAG in cell.metadata.get("tags", [])
        count += check
        cell.outputs = fresh[cell.id].outputs if check else []
        cell.execution_count = count if check else None
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
    nbformat.write(notebook, source)


def _execute(path: Path, folder: Path, parameters: dict[str, str], *, checked: bool) -> Outcome:
    import nbformat
    import papermill

    copy, started, error = folder / path.name, time.monotonic(), ""
    try:
        papermill.execute_notebook(
            path,
            copy,
            parameters=_typed(path, parameters),
            kernel_name=KERNEL,
            cwd=str(path.parent),
            progress_bar=sys.stderr.isatty(),
            stdout_file=sys.stdout,
            execution_timeout=CELL_SECONDS,
            config=_private_channels(),
        )
    except papermill.PapermillExecutionError as failure:
        error = f"{failure.ename}: {failure.evalue}"
    error = error or (_untrue(path, copy) if checked else "")
    if error:
        print(error, file=sys.stderr, flush=True)
    seconds = round(time.monotonic() - started, 1)
    cells = sum(cell.cell_type == "code" and bool(cell.execution_count) for cell in nbformat.read(copy, 4).cells)
    _html(copy)
    print(f"--- {path.name}: {'FAILED' if error else 'passed'} in {seconds:.0f} s", flush=True)
    return Outcome(path.name, not error, seconds, cells, error, str(copy))


def _untrue(path: Path, executed: Path) -> str:
    """The checks that came out otherwise where the notebook in the clone says True, as lines; "" where there are none."""
    import nbformat

    ran = {cell.id: _printed(cell) for cell in nbformat.read(executed, 4).cells}
    wrong = []
    for cell in nbformat.read(path, 4).cells:
        if CHECK_TAG in cell.metadata.get("tags", []):
            came = dict.fromkeys(ran.get(cell.id, "").splitlines())
            wrong += [line for line in _printed(cell).splitlines() if "True" in line and line not in came]
    return "\n".join(f"This check did not come out as in the notebook, which says: {line}" for line in wrong)


def _printed(cell: Any) -> str:
    return "".join(output.get("text", "") for output in cell.get("outputs", []))


def _private_channels() -> Any:
    """Encrypts what goes to the kernel and back: in the clear others on the machine could read it, and ipykernel warns of that."""
    import zmq
    from traitlets.config import Config

    return Config({"KernelManager": {"transport_encryption": "auto" if zmq.has("curve") else "disabled"}})


def _typed(path: Path, given: dict[str, str]) -> dict[str, Any]:
    """Command line words as the literals they stand for; only those that this notebook's parameters cell has."""
    values: dict[str, Any] = {}
    for name in given.keys() & _parameters(path):
        try:
            values[name] = ast.literal_eval(given[name])
        except (ValueError, SyntaxError):
            values[name] = given[name]
    return values


def _parameters(path: Path) -> set[str]:
    """The names that the parameters cell sets."""
    import papermill

    return set(papermill.inspect_notebook(path))


def _html(executed: Path) -> None:
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter().from_filename(str(executed))
    files.write_text(executed.with_suffix(".html"), body)


def _summarise(folder: Path, outcomes: list[Outcome], profile: str) -> None:
    summary = {
        "profile": profile,
        "passed": all(outcome.passed for outcome in outcomes),
        "notebooks": [asdict(outcome) for outcome in outcomes],
    }
    files.save(folder / "summary.json", summary)
    print(f"executed notebooks, HTML and summary.json: {folder}")
