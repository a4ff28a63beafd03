"""A server's own folder for temporary files, made before its engine starts and tidied when it is gone. Standard library only.

Engines leave sockets and files there when they are killed (vLLM three for each start, SGLang six even when it is not).
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path

FOLDER = "tmp"
"""The engine's TMPDIR, below the server's own folder."""
RENDEZVOUS = f"{FOLDER}/rendezvous"
"""A file through which an engine's processes find each other, below the server's own folder; new at each start, as all here is."""
SOCKET_NAME = 40
"""Bytes that an engine may need behind TMPDIR for a socket: vLLM's names have 36, multiprocessing's 31."""
SHARED = Path("/dev/shm")
LEFT_SHARED = re.compile(r"sem\.(?:mp|loky)-.+|psm_[0-9a-f]+|sglang_loads_.+|torch_\d+_.+|nccl-.+")
"""Names that multiprocessing, SGLang, torch and NCCL give there. Whose a file is its name does not say."""
SETTLED_SECONDS = 0.5
"""A file that is younger may belong to somebody who has not mapped it yet."""
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


def tidy(server: Path, since: float = 0.0) -> None:
    """Remove what the engine left: all files and sockets, and folders that are temporary by their names; with `since`, when it was
    started (seconds since the epoch), also what lies in shared memory."""
    if since:
        tidy_shared(since)
    with suppress(OSError), os.scandir(server / FOLDER) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
            elif LEFT_FOLDERS.fullmatch(entry.name):
                shutil.rmtree(entry.path, ignore_errors=True)


def tidy_shared(since: float, folder: Path = SHARED) -> None:
    """Remove files of this user in shared memory that came after `since`, have the name of an engine's, and that nobody has mapped or
    open any more."""
    left = {}
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and LEFT_SHARED.fullmatch(entry.name)
            if ours and since <= status.st_mtime < time.time() - SETTLED_SECONDS:
                left[status.st_ino] = Path(entry.path)
    if left:
        for inode in left.keys() - _used(folder):
            with suppress(OSError):
                left[inode].unlink()


def _used(folder: Path) -> set[int]:
    """The inodes of files below `folder` that live processes have mapped or open; of processes that may be read."""
    found = set()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with suppress(OSError):
            for line in (process / "maps").read_text(errors="replace").splitlines():
                if f"{folder}/" in line:
                    found.add(int(line.split()[4]))
        with suppress(OSError):
            for held in (process / "fd").iterdir():
                with suppress(OSError):
                    if os.readlink(held).startswith(f"{folder}/"):
                        found.add(held.stat().st_ino)
    return found
