"""What goes wrong at the loopback hub, on demand: connections that drop, files that are cut, wrong, missing, slow or not listed.

Used by notebook 02 through `LoopbackHub.fault`, to practise what a download does about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from threading import Lock

from ..common.errors import SettingError

FAULTS = ("drop", "truncate", "corrupt", "missing", "slow", "unlisted")


@dataclass
class Fault:
    """One thing that goes wrong with the files that match `pattern`, `times` times (None: until healed).

    `kind` is one of
        drop       the connection ends after `after` bytes of the body
        truncate   the hub holds only the first `after` bytes and says so, though it lists the full size
        corrupt    the byte at offset `after` of the file is wrong
        missing    404, though it is listed
        slow       `after` bytes a second
        unlisted   the file is left out of the list, as when a hub's list is cut short
    """

    kind: str
    pattern: str = "*"
    after: int = 0
    times: int | None = None

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

    def take(self, path: str, kind: str) -> Fault | None:
        """The first fault of `kind` in force for `path`; taking it uses up one of its times."""
        with self._lock:
            for fault in self._faults:
                if fault.kind == kind and fnmatch(path, fault.pattern) and fault.times != 0:
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault
        return None
