"""What goes wrong at the loopback hub, on demand: with connections, with files, with lists, and whole answers that are others.

Does not cover: doing it (`spoiling` for whole answers, `server` for files, `routes` for lists).
Used by notebook 02 through `LoopbackHub.fault`, to practise what a download does about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from threading import Lock

from ..common.errors import SettingError

LIST, INFO, GIT, BATCH = ":list", ":info", ":git", ":batch"
"""What stands for a file's path where something else is asked for: a list, what a model is, git's own protocol, git-lfs's."""
IN_A_FILE = ("drop", "reset", "stall", "truncate", "corrupt", "slow", "long", "gzip", "missing")
IN_A_LIST = ("unlisted", "listed", "wrong size", "wrong hash", "empty", "half", "away")
WHOLE = (
    *("busy", "busy until", "down", "broken", "bad gateway", "page", "login page", "pointer", "message"),
    *("login", "gated", "forbidden", "no revision", "no model", "legal", "circle", "sent on", "moved"),
)
FAULTS = (*IN_A_FILE, *IN_A_LIST, *WHOLE)


@dataclass
class Fault:
    """One thing that goes wrong with what matches `pattern`, `times` times (None: until healed).

    `pattern` is held against the path of a file, or against ":list", ":info", ":git", ":batch" for other questions; "*" is all.
    With a file:
        drop         the connection ends after `after` bytes of the body
        reset        the same, with a reset (RST) in place of an orderly end
        stall        nothing more comes after `after` bytes, and the connection stays
        truncate     the hub holds only the first `after` bytes and says so, though it lists the full size
        corrupt      the byte at offset `after` of the file is wrong
        slow         `after` bytes a second
        long         Content-Length promises `after` bytes more than come
        gzip         the body is packed, as Content-Encoding says
        missing      404, though it is listed
    With a list:
        unlisted     the file is left out of the list, as when a hub's list is cut short
        listed       a file called `pattern` is listed too, which is not there
        wrong size   the file is listed with `after` bytes
        wrong hash   the file is listed with another hash
        empty        no file is listed
        half         the list comes in two pages
        away         the same, and the Link header names `to` as the host of the second
    With any answer:
        busy         429, asking to wait `after` seconds; "busy until" says so with a date
        down         503; with `after`: asking to wait so many seconds
        broken       500
        bad gateway  502 with a web page
        page         200 with a web page; "login page" has a form for a password
        pointer      200 with a Git-LFS pointer
        message      200 with an error as JSON
        login        401
        gated        403 with terms to be accepted
        forbidden    403 with the web page of a wall in front
        no revision, no model   404 with the hub's own word for it
        legal        451
        circle       a redirect to itself
        sent on      a redirect to the host `to`
        moved        307 to the name `to` of the same model
    """

    kind: str
    pattern: str = "*"
    after: int = 0
    times: int | None = None
    to: str = "127.0.0.1:9"

    def __post_init__(self) -> None:
        if self.kind not in FAULTS:
            raise SettingError(f"There is no fault {self.kind!r}.", f"Use one of: {', '.join(FAULTS)}.")


class Faults:
    """The faults in force, for all threads of the server."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = Lock()

    def add(self, fault: Fault) -> None:
        """Let `fault` happen from now on."""
        with self._lock:
            self._faults.append(fault)

    def heal(self) -> None:
        """End all faults."""
        with self._lock:
            self._faults.clear()

    def take(self, path: str, *kinds: str) -> Fault | None:
        """The first fault of these kinds in force for `path`; taking it uses up one of its times."""
        with self._lock:
            for fault in self._faults:
                if fault.kind in kinds and fnmatch(path, fault.pattern) and fault.times != 0:
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault
        return None

    def added(self) -> list[str]:
        """Paths that a list has besides those of the model."""
        with self._lock:
            return [fault.pattern for fault in self._faults if fault.kind == "listed" and fault.times != 0]
