"""What ties a server to this process: our end of the pipe to its watcher, and the watchers that are our children.

With owner "kernel" the pipe closes with this process, however this process ends, and the watcher then ends the server.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_pipes: dict[Path, int] = {}
"""Server folder -> our end of its pipe."""
_watchers: list[subprocess.Popen[bytes]] = []
"""Kept so that Python reaps them when it starts the next process."""


def tie(server: Path, watcher: subprocess.Popen[bytes], pipe: int | None = None) -> None:
    """Hold `pipe` for the server whose folder is `server` (None: it outlives us), and remember its watcher."""
    let_go(server)
    if pipe is not None:
        _pipes[server] = pipe
    _watchers.append(watcher)


def let_go(server: Path) -> None:
    """Close our end of the pipe to the server whose folder is `server`, and collect watchers that have ended."""
    if server in _pipes:
        os.close(_pipes.pop(server))
    for watcher in _watchers:
        watcher.poll()
