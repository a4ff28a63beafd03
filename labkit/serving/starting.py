"""Watches one server come up: stages from the engine's own log, an exit reported at once, ready proved by one token.

Ready means that /health is 200, that the port belongs to one of our processes, and that one token came back. Raises; stopping what
did not come up is the caller's.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..chat import http
from ..common import logs
from ..common.errors import NotRunning, StartFailed
from ..common.progress import Progress
from ..common.refusals import FIXES
from ..failures.verdicts import explain_files
from ..machine import ports
from .exits import KILL_SECONDS
from .expectations import expected_seconds, lateness, remember
from .lifelines import let_go

if TYPE_CHECKING:
    from ..engines.endpoint import Endpoint
    from .exits import Exit
    from .registry import Record, ServerFolder

POLL_SECONDS = 0.2

STOPPED = {
    "stopped": "was stopped",
    "owner gone": "ended with the process that started it,",
    "watcher died": "was ended because one of its guards was killed,",
    "keeper died": "was ended because one of its guards was killed,",
    "guards died": "was ended because both of its guards were killed,",
}
"""Ends that no log tells of (`exits.Exit`)."""

PROBE_SECONDS = 180.0
"""The first token may compile kernels."""
LEAST_PROBE_SECONDS = 5.0
"""Who says that it lives in the last moment of its time still gets to show it."""

JOINED_LATE_SECONDS = 5.0
"""Whoever begins to watch later than this saw no true stage times: they are not kept as the expectation."""


class Start:
    """Watching one server come up."""

    def __init__(self, server: Endpoint, folder: ServerFolder, record: Record) -> None:
        self.server, self.folder, self.record, self.engine = server, folder, record, server.engine
        self.follower = logs.Follower([Path(record.out), Path(record.err)])
        self.stage, self.stage_began = 0, record.created_at
        self.from_the_start = time.time() - record.created_at < JOINED_LATE_SECONDS
        self.expected = expected_seconds(self.engine, record)
        record.stages = []

    def wait(self, timeout: float) -> None:
        """Return when the server is ready. Raises `StartFailed`; its processes, if it has any left, are the caller's to end."""
        total = sum(self.expected)
        with Progress(f"{self.engine.title} is starting", total=total, unit="s") as bar:
            while True:
                self._read(bar)
                if self.server.answers():
                    break
                self._require_alive()
                elapsed = time.time() - self.record.created_at
                if elapsed > timeout:
                    self._give_up(timeout)
                bar.update(elapsed, self.engine.stages[self.stage].name + lateness(elapsed, total))
                time.sleep(POLL_SECONDS)
            bar.update(time.time() - self.record.created_at, "asking for one token" if self.engine.probe else "")
            self._require_answer(timeout)
            self._require_alive()
            self._read(bar)
            self._finish(bar)

    def _read(self, bar: Progress) -> None:
        new = self.follower.new()
        stage = self.engine.stage_at(new, self.stage) if new else self.stage
        if stage != self.stage:
            self._close_stage(bar)
            self.stage = stage

    def _close_stage(self, bar: Progress) -> None:
        now = time.time()
        name, seconds = self.engine.stages[self.stage].name, round(now - self.stage_began, 1)
        self.record.stages.append((name, seconds))
        self.stage_began = now
        bar.line(f"{seconds:7.1f} s  {name}")

    def _require_alive(self) -> None:
        status = self.folder.status()
        if status.state in ("starting", "ready"):
            return
        if self.folder.record is None:
            raise StartFailed(
                f"{self.engine.title} was stopped while it was starting, and its record is another start's or gone.",
                f'labkit.attach("{self.folder.name}") finds what runs under that name now; ./lab ps lists all.',
            )
        deadline = time.monotonic() + self.engine.grace_seconds + KILL_SECONDS
        while self.folder.guards() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS / 4)
        ended = self.folder.exit
        let_go(self.folder.folder)
        if ended and ended.reason in STOPPED:
            raise StartFailed(f"{self.engine.title} {STOPPED[ended.reason]} while it was starting.", "Start it again.")
        raise failure(self.server, Path(self.record.out), Path(self.record.err), ended)

    def _require_answer(self, timeout: float) -> None:
        """One token from one of our own processes, within what is left of `timeout`: another server on the port cannot pass for ours."""
        self._require_alive()
        pids = self.folder.processes()
        if not ports.listens(self.record.port, pids):
            other = ports.listener(self.record.port)
            raise StartFailed(
                f"Port {self.record.port} answers, but not from our processes: {other}.", "Stop that process, then start again."
            )
        if self.engine.probe:
            left = timeout - (time.time() - self.record.created_at)
            self._ask_one_token(max(LEAST_PROBE_SECONDS, min(PROBE_SECONDS, left)))

    def _ask_one_token(self, seconds: float) -> None:
        body = {"model": self.server.model, "prompt": "1 + 1 =", "max_tokens": 1, "temperature": 0}
        try:
            status, content = http.ask(self.server, "POST", self.engine.probe, body, seconds=seconds)
        except NotRunning as error:
            status, content = 0, error.cause
        if status == 200 and isinstance(content, dict) and content.get("choices"):
            return
        self._require_alive()
        detail = http.error_message(content)[:300]
        raise StartFailed(
            f"{self.engine.title} is up, but one token did not come back: {detail}", "Read the log.", log=str(self.server.log)
        )

    def _give_up(self, timeout: float) -> None:
        stage = self.engine.stages[self.stage].name
        raise StartFailed(
            f"{self.engine.title} was not ready after {timeout:.0f} s; it was at: {stage}. It has been stopped.",
            "Look at the log; on a slow machine give more time: serve(..., timeout=3600).",
            log=str(self.server.log),
        )

    def _finish(self, bar: Progress) -> None:
        self._close_stage(bar)
        self.record.ready_at = time.time()
        self.folder.save(self.record)
        if self.from_the_start:
            remember(self.engine, self.record)
        bar.line(f"{self.record.ready_at - self.record.created_at:7.1f} s  in all: {self.engine.title} is ready at {self.server.url}")


def _not_started(server: Endpoint, error: str) -> StartFailed:
    """By the system's own words ("[Errno 28] No space left on device: FILE"): the engine's Python, or a file of its guards."""
    number = re.match(r"\[Errno (\d+)\]", error)
    fix = FIXES.get(int(number[1]), "") if number else ""
    if server.command[0] in error or not fix:
        return StartFailed(f"{server.command[0]} could not be run: {error}", "Make the environment again: ./lab doctor.")
    return StartFailed(f"{server.engine.title} could not be started: {error}", fix)


def failure(server: Endpoint, out: Path, errors: Path, ended: Exit | None) -> StartFailed:
    """The exit as an error: what its two logs say, what it means, what to do."""
    if ended and ended.reason == "not started":
        return _not_started(server, ended.error)
    verdict = explain_files([out, errors], engine=server.engine.name)
    log, line = verdict.file or str(server.log), verdict.telling or verdict.line or logs.last_line(errors) or logs.last_line(out)
    if verdict.known:
        return StartFailed(verdict.cause, verdict.fix, line=line, log=log)
    title, code = server.engine.title, ended.code if ended else None
    if not verdict.found and (code in (-9, 137) or ended is None):
        cause = f"{title} was killed while starting (SIGKILL), and its log tells of no failure."
        return StartFailed(cause, "If nobody did, the machine ran out of memory: dmesg | tail, free -g.", line=line, log=log)
    how = ended.reason if ended and ended.reason != "exited" else "exited" if code is None else f"exited with code {code}"
    if not verdict.found:
        return StartFailed(f"{title} {how} while starting, and its log tells of no failure.", "", line=line, log=log)
    cause = f"{title} {how} while starting. {verdict.unknown}"
    return StartFailed(cause, f"What stands around it: {verdict.place}.", line=verdict.words, log=log)
