"""The client of a hub as a child process: started with a job, watched while it runs, ended with its caller.

Covers: progress by the bytes on disk, stalls, the end of the whole group. Does not cover: what a client does (`client`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from ..common.errors import DownloadError
from ..common.progress import Progress
from .client import Job
from .task import Task, bytes_under

POLL_SECONDS = 0.1
STALL_SECONDS = 20.0


def run_watched(task: Task, job: Job, total: int, log: Path, lock: int) -> int:
    """Run the job in its own process group with a bar, and return its exit code; whatever ends this ends the group."""
    env = task.source.environment(task.hub, proxy=task.proxy)
    package_parent = str(Path(__file__).resolve().parents[2])
    env["PYTHONPATH"] = os.pathsep.join(part for part in (package_parent, env.get("PYTHONPATH", "")) if part)
    command = [sys.executable, "-m", "labkit.hub.client"]
    with log.open("wb") as stream:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=stream, stderr=subprocess.STDOUT, env=env, start_new_session=True, pass_fds=(lock,)
        )
    try:
        assert child.stdin is not None
        child.stdin.write((job.to_json() + "\n").encode())
        child.stdin.flush()
        _follow(task, child, total)
        return child.wait()
    finally:
        _end_group(child)


def _follow(task: Task, child: subprocess.Popen[bytes], total: int) -> None:
    """Show bytes on disk until the client ends; all three clients can be watched this way."""
    start = moved = time.monotonic()
    first = last = bytes_under(task.root)
    with Progress(f"Downloading {task.model} from {task.source.title}", total=total, unit="B") as bar:
        while child.poll() is None:
            done, now = bytes_under(task.root), time.monotonic()
            if done != last:
                last, moved = done, now
            bar.update(min(done, total), _pace(done - first, total - done, now - start, now - moved))
            if task.stop_at is not None and done >= task.stop_at * total:
                raise DownloadError(f"Stopped at {done / total:.0%}, as stop_at asked.", "Run the download again: it goes on from here.")
            time.sleep(POLL_SECONDS)
        bar.update(min(bytes_under(task.root), total))


def _pace(moved: int, left: int, seconds: float, still: float) -> str:
    if still > STALL_SECONDS:
        return f"no new bytes for {still:.0f} s"
    if seconds < 2 or moved <= 0:
        return ""
    rate = moved / seconds
    return f"{rate / 1e6:.1f} MB/s, {max(0, left) / rate / 60:.0f} min left"


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """SIGKILL, because huggingface_hub deletes its partial file when it is asked politely."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if child.stdin:
        child.stdin.close()
