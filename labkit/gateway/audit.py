"""Who asked what of which model: one JSON line for each request, in a file that only you can read, personal data masked first.

    audit = Audit(path)
    audit.write({"tenant": "team-a", "prompt": text})     every text in it goes through `masking.mask`
    audit                                                 the last lines as a table

A line is appended whole or not at all, whoever else writes at the same time: other threads, other processes. Texts are masked
before they are cut to `EXCERPT` characters, so that no half of a number is left over.

Covers: writing, reading. Does not cover: rotation, shipping the log elsewhere, proof against somebody with your rights, and what
`masking` does not find. Used by notebook 06 through `tenants`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common import tables
from ..common.errors import LabError
from .masking import mask

EXCERPT = 2000
"""Characters of a text that are kept."""
SHOWN = 20
COLUMNS = ("time", "tenant", "model", "status", "prompt_tokens", "output_tokens", "seconds", "prompt", "reply")
WIDE, NARROW = 60, 24
"""Characters of a cell in the table: prompt and reply, everything else."""


class Audit:
    """An audit log at `path`. The file is made at once, with mode 0600 (an existing one is set to it), its folder if needed.

    Raises `LabError` for a path that cannot be written, or that is a link or no file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser().absolute()
        os.close(self._open())

    def write(self, record: Mapping[str, Any]) -> None:
        """Append `record`, its texts masked and cut. Raises `LabError` if that fails; then nothing of it is in the file."""
        line = (json.dumps(_clean(record), ensure_ascii=False) + "\n").encode("utf-8", errors="backslashreplace")
        descriptor = self._open()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            before = os.fstat(descriptor).st_size
            torn = before and os.pread(descriptor, 1, before - 1) != b"\n"  # the machine went down in the middle of a line
            try:
                _write_whole(descriptor, b"\n" + line if torn else line)
            except OSError:
                os.ftruncate(descriptor, before)
                raise
        except OSError as error:
            raise self._error(error) from error
        finally:
            os.close(descriptor)

    def read(self, count: int | None = None) -> list[dict[str, Any]]:
        """The last `count` records, or all, oldest first; of a line that cannot be read a record that says so."""
        lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
        return [_record(line) for line in (lines[-count:] if count else lines)]

    def rows(self) -> list[list[str]]:
        """The last records as a table, heading first."""
        return [list(COLUMNS), *([_cell(name, record.get(name)) for name in COLUMNS] for record in self.read(SHOWN))]

    def __str__(self) -> str:
        return f"{tables.plain(self.rows())}\n{self.path}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return tables.as_html(self.rows(), f"{self.path}: the last {SHOWN} requests at most")

    def _open(self) -> int:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._error(error) from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "it is no plain file")
            os.fchmod(descriptor, 0o600)
        except OSError as error:
            os.close(descriptor)
            raise self._error(error) from error
        return descriptor

    def _error(self, error: OSError) -> LabError:
        return LabError(f"The audit log {self.path} cannot be written: {error.strerror}.", "Choose a file of your own on a disk with room.")


def _write_whole(descriptor: int, line: bytes) -> None:
    """A disk that fills up takes a part and says so only at the next call."""
    left = memoryview(line)
    while left:
        left = left[os.write(descriptor, left) :]


def _record(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    return record if isinstance(record, dict) else {"status": "unreadable", "error": line[:EXCERPT]}


def _clean(value: Any) -> Any:
    """`value` with every text in it masked, keys too, and cut."""
    if isinstance(value, str):
        masked = mask(value)
        return masked if len(masked) <= EXCERPT else f"{masked[:EXCERPT]}… ({len(masked)} characters)"
    if isinstance(value, Mapping):
        return {mask(str(name)): _clean(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(part) for part in value]
    return value if value is None or isinstance(value, bool | int | float) else _clean(str(value))


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    last = value[-1] if isinstance(value, list) and value else value
    text, width = " ".join(str(last).split()), WIDE if name in ("prompt", "reply") else NARROW
    return text if len(text) <= width else f"{text[: width - 1]}…"
