"""One holder at a time, over all processes: a lock on a file that goes with the last process that has it open.

The file stays; what counts is the lock on it (flock(2)), so a killed process leaves none behind. Its text is the holder's pid.
Used by downloads, installs, starts of servers, versions of models.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .files import make_folder

POLL_SECONDS = 0.1


class Busy(Exception):
    """Somebody else holds it; `owner` is their pid, "unknown" if they did not write it down."""

    def __init__(self, owner: str) -> None:
        super().__init__(owner)
        self.owner = owner


@contextmanager
def locked(path: Path, *, wait: bool = True, on_wait: Callable[[str, float], None] | None = None) -> Iterator[int]:
    """Hold the lock on `path` for the block; yields its descriptor.

    A child that gets the descriptor (`pass_fds`) holds the lock too. Where another process holds it: waits, and tells `on_wait`
    the owner and the seconds so far; with wait=False raises `Busy` at once.
    """
    make_folder(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        started = time.monotonic()
        while not _try(descriptor):
            owner = os.pread(descriptor, 20, 0).decode(errors="replace") or "unknown"
            if not wait:
                raise Busy(owner)
            if on_wait:
                on_wait(owner, time.monotonic() - started)
            time.sleep(POLL_SECONDS)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
