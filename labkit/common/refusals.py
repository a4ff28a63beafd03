"""What the system refuses, in a sentence: a full disk, no permission, a read-only file system, too many open files.

Covers: an `OSError` as the `LabError` that says which file and what helps. Does not cover: whether there is room beforehand (`disk`), what
a hub or a server refuses.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import LabError

FIXES = {
    errno.ENOSPC: "The disk is full: df -h shows which; ./lab doctor names what is large.",
    errno.EDQUOT: "Your quota is used up: make room in your own files, or ask for more.",
    errno.EFBIG: "The file system takes no file of that size: use another disk.",
    errno.EROFS: "The disk is mounted read-only: LABKIT_HOME=<folder on another disk>.",
    errno.EACCES: "This user may not: give it the right, or choose a folder of its own: LABKIT_HOME=<folder>.",
    errno.EPERM: "This user may not: give it the right, or choose a folder of its own: LABKIT_HOME=<folder>.",
    errno.ENAMETOOLONG: "Choose a shorter name or folder.",
    errno.EMFILE: "This process has too many files open: ulimit -n says how many it may; restart the kernel or the terminal.",
    errno.ENFILE: "The machine has too many files open: end what is not needed.",
    errno.ENOTDIR: "A part of the path is a file where a folder is wanted.",
    errno.EISDIR: "A folder lies where a file belongs: look what is in it, then move it away.",
    errno.EEXIST: "Something else lies at that place: move it away.",
    errno.ENOENT: "Look whether it is there; somebody may have removed it this moment: try again.",
    errno.EAGAIN: "The machine starts no more processes for this user (ulimit -u): end what is not needed.",
    errno.ENOMEM: "The machine's memory is full: close other notebooks and servers (./lab ps, ./lab down).",
    errno.ELOOP: "The links in the path lead in a circle: remove one.",
    errno.EIO: "The disk does not answer as it should: look at `dmesg`, use another disk.",
}


def refusal(error: OSError) -> LabError:
    """`error` as one that names the file, what the system said and what helps."""
    place = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    words = error.strerror or str(error) or type(error).__name__
    return LabError(f"{place}: {words}." if place else f"{words}.", FIXES.get(error.errno or 0, ""))


@contextmanager
def told() -> Iterator[None]:
    """Raise what the system refuses inside the block, or inside the function that this decorates, as a `LabError`.

    Child errors that mean something else to a caller (a connection, a time-out) pass.
    """
    try:
        yield
    except (ConnectionError, TimeoutError):
        raise
    except OSError as error:
        raise refusal(error) from error
