"""Runs one command line and passes on what it prints: a worker script (see `launch`) for tools that have a command of their own.

The command is in this worker's process group, so that both end with the notebook. What is asked is in `command_job`. Events: "output"
(text) for every line, "step" (content) for every line of the request's `steps`, "progress", "failed" (code).
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from labkit.workers import side
from labkit.workers.command_job import CommandRequest

POLL_SECONDS = 0.5
NOTE = 70
"""Characters of the last line that the progress bar shows."""
PREFIX = re.compile(r"^\[\w+\|[^\]]*\](?:\s[^>]*>>\s?)?")
"""What LLaMA-Factory and transformers put before a line of their logs."""


def work(fields: dict[str, Any]) -> dict[str, Any]:
    """Run the command of the `CommandRequest` in `fields` to its end; the result is empty."""
    request = CommandRequest(**fields)
    steps, over = Steps(Path(request.steps) if request.steps else None), threading.Event()
    with open(request.log, "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            request.argv,
            cwd=request.cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        watcher = threading.Thread(target=steps.watch, args=(over,), daemon=True)
        watcher.start()
        for line in process.stdout or ():
            log.write(line)
            log.flush()
            side.tell("output", text=line.rstrip())
            steps.say(line.strip())
        code = process.wait()
    over.set()
    watcher.join()
    if code:
        side.tell("failed", code=code)
    return {}


class Steps:
    """How far the tool is: the file that it writes, else its last line."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.offset, self.done = path, 0, 0
        self.started = time.monotonic()

    def watch(self, over: threading.Event) -> None:
        while not over.wait(POLL_SECONDS):
            self.read()
        self.read()

    def read(self) -> None:
        """Tell every line that is new and whole."""
        if self.path is None or not self.path.exists():
            return
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            whole, end, _ = stream.read().rpartition(b"\n")
        self.offset += len(whole) + len(end)
        for line in whole.splitlines():
            self.tell(json.loads(line))

    def tell(self, step: dict[str, Any]) -> None:
        self.done = step.get("current_steps", self.done)
        side.tell("step", content=step)
        note = f"loss {step['loss']:.3f}" if "loss" in step else ""
        side.tell("progress", done=self.done, total=step.get("total_steps"), note=note)

    def say(self, text: str) -> None:
        """The last line, until the file has begun. Where there is none, seconds are what is done."""
        if text and not self.done:
            done = 0.0 if self.path else time.monotonic() - self.started
            side.tell("progress", done=done, note=PREFIX.sub("", text)[:NOTE])


if __name__ == "__main__":
    side.answer(work)
