"""A server's own folder for temporary files, made before its engine starts and tidied when it is gone. Standard library only.

Engines leave sockets and files there when they are killed (vLLM three for each start, SGLang six even when it is not).
"""

from __future__ import annotations

import os
import re
import shutil
import socket
from contextlib import suppress
from pathlib import Path

FOLDER = "tmp"
"""The engine's TMPDIR, below the server's own folder."""
RENDEZVOUS = f"{FOLDER}/rendezvous"
"""A file through which an engine's processes find each other, below the server's own folder; new at each start, as all here is."""
SOCKET_NAME = 40
"""Bytes that an engine may need behind TMPDIR for a socket: vLLM's names have 36, multiprocessing's 31."""
LEFT_FOLDERS = re.compile(r"(tmp|pymp-|sgl_ar_fd_)[a-z0-9_]{8}")
"""Folders that nobody comes back for. What has another name may be a cache, and stays."""


def environment(server: Path) -> dict[str, str]:
    """TMPDIR for the engine of the server whose folder is `server`, or nothing where it could not make its sockets.

    The path of a socket has at most 107 bytes, and some network disks hold none: so one is made, with a long name.
    """
    folder = server / FOLDER
    probe = folder / ("s" * SOCKET_NAME)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        with socket.socket(socket.AF_UNIX) as trial:
            trial.bind(str(probe))
        probe.unlink()
    except OSError:
        return {}
    return {"TMPDIR": str(folder)}


def tidy(server: Path) -> None:
    """Remove what the engine left: all files and sockets, and folders that are temporary by their names."""
    with suppress(OSError), os.scandir(server / FOLDER) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
            elif LEFT_FOLDERS.fullmatch(entry.name):
                shutil.rmtree(entry.path, ignore_errors=True)
