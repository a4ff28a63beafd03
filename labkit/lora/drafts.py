"""The folder `OUT.merging`, in which a merge to OUT is put together, and the journal in it of the shards that are whole.

Covers: one merge to OUT at a time, what a killed or failed merge leaves for the next, the name OUT at the end.
Does not cover: what is written (`merging`). Its lock is on the folder itself and not `common.locks`, whose file would stay behind.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..common import files
from ..common.errors import LabError
from ..models.adapter import Adapter
from ..models.adapter_folders import CONFIG
from ..models.headers import Weights, read_header
from .companions import JOURNAL

ARITHMETIC = 1
"""Counts changes to what is computed: shards of an older labkit are not gone on from."""


class Draft:
    """A merge to `target` on its way. `inputs` says what it is made from: shards made from others are not gone on from.

    `shards` holds for each whole shard the names of its tensors that changed.
    """

    def __init__(self, target: Path, inputs: Mapping[str, Any]) -> None:
        self.target, self.inputs = target, inputs
        self.folder = target.with_name(f"{target.name}.merging")
        self.shards: dict[str, list[str]] = {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and hold it: one merge to a folder at a time. The lock goes with the process.

        Raises `LabError` while another merge to `target` runs.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LabError(f"Another merge to {self.target} is running.", "Wait for it, or stop that notebook or process.") from None
            if not self.folder.exists() or not os.path.samestat(os.fstat(descriptor), self.folder.stat()):
                raise LabError(f"Another merge to {self.target} has just ended.", "Look at its result, or run this again.")
            yield
        finally:
            os.close(descriptor)

    def resume(self, sizes: Mapping[str, int]) -> int:
        """Clear the folder of all but the shards of `sizes` (name -> bytes) that an earlier call finished from the same inputs.

        Returns how many those are.
        """
        try:
            journal = json.loads((self.folder / JOURNAL).read_text())
            finished: Mapping[str, list[str]] = journal["shards"] if journal["inputs"] == self.inputs else {}
        except (OSError, ValueError, KeyError):
            finished = {}
        for path in self.folder.iterdir():
            if path.name in finished and path.stat().st_size == sizes.get(path.name):
                self.shards[path.name] = list(finished[path.name])
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        if self.shards:
            self._save()
        return len(self.shards)

    def add(self, shard: str, changed: list[str]) -> None:
        """A shard is whole: write it down, so that the next call need not do it again."""
        self.shards[shard] = changed
        self._save()

    def sweep(self, *, resumable: bool) -> None:
        """After a failure: whole shards stay for the next call where it may go on from them, everything else goes."""
        if self.shards and resumable:
            for path in self.folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name not in self.shards and path.name != JOURNAL:
                    path.unlink()
            with suppress(OSError):  # no room even for the list of them: then they go too
                return self._save()
        shutil.rmtree(self.folder, ignore_errors=True)

    def publish(self) -> None:
        """Give the folder, which is complete, its name."""
        (self.folder / JOURNAL).unlink(missing_ok=True)
        self.folder.rename(self.target)

    def _save(self) -> None:
        files.save(self.folder / JOURNAL, {"inputs": self.inputs, "shards": self.shards})


def inputs(base: Weights, adapter: Adapter, method: str) -> dict[str, Any]:
    """What a merge is made from: "base" the states of its shards, "adapter" the SHA-256 of its two files, "arithmetic", "method"."""
    return {
        "base": [_state(file) for file in base.files],
        "adapter": {file.name: _sha256(file) for file in (adapter.folder / CONFIG, adapter.weights)},
        "arithmetic": ARITHMETIC,
        "method": method,
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _state(path: Path) -> dict[str, Any]:
    """A shard told from another by name, size, time of change and header; reading 16 GB to hash them would cost what the merge costs."""
    state = path.stat()
    header = hashlib.sha256(json.dumps([asdict(tensor) for tensor in read_header(path).values()], default=str).encode()).hexdigest()
    return {"name": path.name, "size": state.st_size, "mtime_ns": state.st_mtime_ns, "header": header}
