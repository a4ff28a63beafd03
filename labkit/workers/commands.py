"""Runs somebody else's command line as a child of ours, with progress, and explains how it failed.

For tools whose own command is what the course teaches (`llamafactory-cli`, `python -m verl.model_merger`): the command is shown as
one could paste it, the tool runs in its own environment, and it ends with the notebook.

Covers: environment, progress, output, the log, known failures. Does not cover: work that labkit does itself in an engine's
environment (`launch`), servers (`serving`). Used by `training.llamafactory` and `training.verl`, and so by notebook 06.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..common.errors import LabError
from ..common.logs import last_line
from ..common.settings import settings
from ..failures.verdicts import explain_text
from . import launch
from .command_job import CommandRequest

SCRIPT = launch.SCRIPTS / "command_worker.py"
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""All that is read lies in local folders: no hub is asked."""


@dataclass(frozen=True)
class CommandResult:
    """How a command ended: its exit code, all it printed (standard output and error as they came), the file that keeps it."""

    argv: tuple[str, ...]
    code: int
    output: str
    log: Path
    seconds: float

    def error(self, what: str, tool: str) -> LabError:
        """The failure as an error: what is known of it in `tool`, else its own words."""
        verdict = explain_text(self.output, engine=tool)
        cause = verdict.cause or f"it ended with exit code {self.code}"
        own = f"\nIts own words: {verdict.words}" if verdict.found else f"\nIts last line: {last_line(self.log)}"
        return LabError(f"{what}: {cause}{own}", f"{verdict.fix} The whole log: {self.log}.".strip())


def run(
    command: Sequence[str | Path],
    cwd: Path,
    *,
    title: str,
    total: float | None = None,
    unit: str = "s",
    steps: Path | None = None,
    environment: Mapping[str, str] | None = None,
    on_output: Callable[[str], None] | None = None,
    on_step: Callable[[dict[str, Any]], None] | None = None,
) -> CommandResult:
    """Run `command` in folder `cwd` to its end, whatever that is; the caller looks at `.code`.

    `steps` is a file of JSON lines that the tool writes about its progress (LLaMA-Factory's trainer_log.jsonl); each goes to
    `on_step`, each printed line to `on_output`. What either raises ends the command and everything that it started. The
    folder of the program comes first in PATH, so that it finds the programs of its own environment.
    """
    argv = tuple(str(argument) for argument in command)
    output: list[str] = []
    log = settings().logs / "commands" / f"{time.strftime('%Y%m%d-%H%M%S')}-{Path(argv[0]).name}-{os.getpid()}.log"
    log.parent.mkdir(parents=True, exist_ok=True)

    def take(event: dict[str, Any]) -> None:
        if event["event"] == "failed":
            raise _Failed(event["code"])  # so that the bar says so
        if event["event"] == "step" and on_step:
            on_step(event["content"])
        elif event["event"] == "output":
            output.append(event["text"])
            if on_output:
                on_output(event["text"])

    path = os.pathsep.join([str(Path(argv[0]).parent), os.environ.get("PATH", os.defpath)])
    started = time.monotonic()
    code = 0
    try:
        launch.run(
            SCRIPT,
            asdict(CommandRequest(argv, str(cwd), str(log), str(steps or ""))),
            title=title,
            total=total,
            unit=unit,
            python=Path(sys.executable),
            environment={"PATH": path, **OFFLINE, **(environment or {})},
            on_event=take,
        )
    except _Failed as failed:
        code = failed.code
    return CommandResult(argv, code, "\n".join(output), log, round(time.monotonic() - started, 1))


class _Failed(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def pasteable(command: Sequence[str | Path]) -> str:
    """The command as one line for a shell."""
    return shlex.join(str(argument) for argument in command)
