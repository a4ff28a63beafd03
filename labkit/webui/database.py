"""Whether Open-WebUI's database can be written now, and who stands in the way.

SQLite lets one write at a time. A second process that keeps a transaction open, and network disks whose locks do not work, show in the
page as "Internal Server Error" and in its log as "database is locked".
Covers: one try to write, the processes that have the file open, the kind of disk. Does not cover: what is in it (`data`).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from ..common.errors import LabError

WAIT_SECONDS = 2.0
"""Open-WebUI's own writes take milliseconds."""
NETWORK = ("nfs", "cifs", "smb", "fuse", "9p", "ceph", "gluster", "lustre", "beegfs", "virtiofs", "drvfs", "afs")
"""How the names of file systems begin that are somewhere else, or whose locks are another system's."""
PARTS = ("", "-journal", "-wal", "-shm")


class DatabaseUnusable(LabError):
    """The database is there and cannot be written."""


def require_writable(database: Path, wait: float = WAIT_SECONDS) -> None:
    """Raise `DatabaseUnusable`, naming who holds it or what is wrong with it, if `database` exists and cannot be written."""
    if not database.exists():
        return
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=wait, isolation_level=None)) as connection:
            connection.execute("begin immediate")
            connection.execute("rollback")
    except sqlite3.DatabaseError as error:
        raise _unusable(database, str(error)) from None


def _unusable(database: Path, said: str) -> DatabaseUnusable:
    disk = _file_system(database)
    remote = disk.startswith(NETWORK)
    local = f"Keep the data home on a disk of this machine: export LABKIT_HOME=<folder>, and copy {database.parent} there."
    if "locked" not in said and "busy" not in said:
        fix = local if remote else f"The rights and the disk of {database.parent}: ls -l, df -h; to begin anew, move that folder away."
        return DatabaseUnusable(f"Open-WebUI's database {database} cannot be written (SQLite: {said}).", fix)
    holders = list(_holders(database))
    if holders:
        pids = " ".join(str(pid) for pid, _ in holders)
        names = ", ".join(f"pid {pid} ({command})" for pid, command in holders)
        return DatabaseUnusable(
            f"Open-WebUI's database {database} is locked; it is open in {names}.",
            f"End what should not have it open (./lab ps shows ours; else kill {pids}), then try again.",
        )
    where = f" It lies on a network disk ({disk}), where SQLite's locks are not dependable." if remote else ""
    return DatabaseUnusable(
        f"Open-WebUI's database {database} is locked, by no process that can be seen here (another container or machine?).{where}",
        local if remote else "End the other Open-WebUI that uses this data home, or give this one its own: export LABKIT_HOME=<folder>.",
    )


def _holders(database: Path) -> Iterator[tuple[int, str]]:
    """(pid, command) of the processes, ours included, that have it open."""
    files = {str(database.resolve()) + part for part in PARTS}
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(os.readlink(entry) in files for entry in folder.iterdir()):
                command = (folder.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                yield int(folder.parent.name), command[:120]
        except OSError:
            continue  # another user's, or gone meanwhile


def _file_system(path: Path) -> str:
    import psutil

    resolved = path.resolve()
    mounts = [mount for mount in psutil.disk_partitions(all=True) if resolved.is_relative_to(mount.mountpoint)]
    return max(mounts, key=lambda mount: len(mount.mountpoint)).fstype.lower() if mounts else ""
