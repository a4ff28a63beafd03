"""Reading what a server or a tool writes: the lines since last time, the last lines, and the stages of a start.

Covers: files on disk that grow. Does not cover: why something failed (`failures`), which stages an engine has (`engines`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MARK_BYTES = 256
"""So much of what was read is looked at again, to see whether a file is still the same."""


@dataclass(frozen=True)
class Stage:
    """A stretch of an engine's start. It begins with the first log line that `pattern` matches ("" is the very start).

    `cpu_seconds` and `gpu_seconds` say how long it took where it was measured (2 cores; one H200 with the 8B shape and
    empty caches): the expectation until this machine has a start of its own to compare with.
    """

    name: str
    pattern: str
    cpu_seconds: float
    gpu_seconds: float


class Follower:
    """Reads files as they grow, by whole lines; the states of a progress bar, which end in a carriage return, are lines too."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._places = {path: (0, b"") for path in paths}
        """File -> (bytes read, the last of them). Where these no longer stand, the file was truncated or replaced."""

    def new(self, *, last: bool = False) -> str:
        """The lines that came since the last call, file after file; of a file that was truncated or replaced, all it has now.

        A line that has not ended is kept for a later call, so that no pattern sees half of it. `last`, for a writer that is
        gone, brings it too, ended.
        """
        return "".join(self._lines(path, last) for path in self._places)

    def _lines(self, path: Path, last: bool) -> str:
        offset, mark = self._places[path]
        try:
            with path.open("rb") as stream:
                stream.seek(offset - len(mark))
                data = stream.read()
                if not data.startswith(mark):
                    stream.seek(0)
                    offset, mark, data = 0, b"", stream.read()
        except OSError:  # not there yet; or it cannot be read now, and what it says only helps
            return ""
        data = data.removeprefix(mark)
        end = len(data) if last else max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        self._places[path] = (offset + end, (mark + data[:end])[-MARK_BYTES:])
        text = data[:end].decode(errors="replace")
        return text + "\n" if last and text and text[-1] not in "\r\n" else text


def tail(path: Path, lines: int) -> str:
    """The last `lines` lines of a file; of a progress bar only the last state."""
    if not path.exists():
        return ""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - 400 * lines - 4096))
        text = stream.read().decode(errors="replace")
    return "\n".join(line.split("\r")[-1] for line in text.splitlines()[-lines:])


def last_line(path: Path) -> str:
    """The last line of a log that says something, "" of one that is empty or not there."""
    return next((line.strip() for line in reversed(tail(path, 20).splitlines()) if line.strip()), "")
