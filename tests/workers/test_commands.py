"""A tool's own command line: its lines, its steps, its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from labkit.common.errors import LabError
from labkit.serving.process_table import process_row
from labkit.workers import commands


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))


def tool(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def test_lines_and_steps_arrive_and_the_log_keeps_them(tmp_path: Path) -> None:
    code = """
        import json, os, sys
        print("here:", os.getcwd(), os.environ["HF_HUB_OFFLINE"])
        print("and there", file=sys.stderr)
        with open("steps.jsonl", "w") as stream:
            for step in (1, 2):
                print(json.dumps({"current_steps": step, "total_steps": 2, "loss": 1 / step}), file=stream)
        sys.exit(3)
    """
    lines: list[str] = []
    steps: list[float] = []
    ran = commands.run(
        tool(code),
        tmp_path,
        title="Tool",
        steps=tmp_path / "steps.jsonl",
        on_output=lines.append,
        on_step=lambda step: steps.append(step["loss"]),
    )
    assert ran.code == 3 and steps == [1.0, 0.5]
    assert sorted(lines) == ["and there", f"here: {tmp_path} 1"]
    assert ran.log.read_text().splitlines() == ran.output.splitlines()


def test_a_failure_is_explained_or_quoted(tmp_path: Path) -> None:
    ran = commands.run(tool("import sys; print('x\\nValueError: Template foo does not exist.'); sys.exit(1)"), tmp_path, title="Tool")
    error = ran.error("Tool failed", "llamafactory")
    assert "no foo" in error.cause or "called foo" in error.cause
    assert error.cause.endswith("Its own words: ValueError: Template foo does not exist.")
    assert error.fix.endswith(f"The whole log: {ran.log}.")
    assert "exit code 1" in ran.error("Tool failed", "verl").cause


def test_a_silent_end_shows_the_last_line(tmp_path: Path) -> None:
    ran = commands.run(tool("import sys; print('step 1 of 9'); sys.exit(3)"), tmp_path, title="Tool")
    assert ran.error("Tool failed", "verl").cause == "Tool failed: it ended with exit code 3\nIts last line: step 1 of 9"


def test_what_the_listener_raises_ends_the_command(tmp_path: Path) -> None:
    seen: list[int] = []

    def stop(text: str) -> None:
        seen.append(int(text))
        raise LabError("enough", "")

    with pytest.raises(LabError, match="enough"):
        commands.run(tool("import os, time; print(os.getpid(), flush=True); time.sleep(600)"), tmp_path, title="Tool", on_output=stop)
    assert gone(seen[0])


def test_it_ends_with_a_killed_notebook(tmp_path: Path) -> None:
    code = f"""
        import sys
        from pathlib import Path
        from labkit.workers import commands
        tool = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
        commands.run([sys.executable, "-c", tool], Path({str(tmp_path)!r}), title="Tool", on_output=lambda text: print("pid", text, flush=True))
    """
    kernel = subprocess.Popen(tool(code), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=Path(__file__).parents[2])
    assert kernel.stdout is not None
    pid = next(int(line.split()[1]) for line in kernel.stdout if line.startswith("pid"))
    os.kill(kernel.pid, signal.SIGKILL)
    kernel.wait()
    assert gone(pid)


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while (row := process_row(pid)) is not None and row.alive:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
