"""The bytes of a merge on disk: shards that are being written, chunk by chunk by several threads, and the files they are made from.

Covers: which part of a file is copied and which is changed, passing the page cache by, full disks, files cut off while they are read.
Does not cover: the numbers (`merge_arithmetic`). Imported by `merge_worker`, in the vLLM environment.
"""

from __future__ import annotations

import bisect
import errno
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from labkit.workers.merge_job import ShardJob, TensorChange
from labkit.workers.side import Refused

CHUNK = 8 * 2**20
"""Bytes of a file that a thread writes at a time."""
PAGE = 4096
"""What addresses, offsets and lengths are multiples of where the page cache is passed by."""


@dataclass(frozen=True)
class Part:
    """Bytes `first` to `last` of a file: copied, or those of a changed tensor."""

    first: int
    last: int
    change: TensorChange | None = None


class ShardFile:
    """One file on its way. `left` counts its chunks that are still to be done."""

    def __init__(self, job: ShardJob) -> None:
        self.name, self.source, self.target, self.size = job.name, job.source, job.target, job.size
        parts = [Part(first, first + size) for first, size in job.copies]
        parts += [Part(change.base.offset, change.base.offset + change.base.bytes, change) for change in job.changes]
        self.parts = sorted((part for part in parts if part.last > part.first), key=lambda part: part.first)
        self.starts = [part.first for part in self.parts]
        self.left = -(-self.size // CHUNK)
        self.output = -1

    def within(self, first: int, last: int) -> Iterator[Part]:
        """The parts that lie in a byte range, in order."""
        for part in self.parts[max(bisect.bisect_right(self.starts, first) - 1, 0) :]:
            if part.first >= last:
                return
            if part.last > first:
                yield part

    def open(self) -> None:
        """Make the file in its full length, so that a full disk shows before any work is done on it.

        What is written passes the page cache by where the file system can: that takes a third of the processor time, and leaves
        the base in the cache. Nobody reads the result before the merge has ended.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        try:
            self.output = os.open(self.target, flags | os.O_DIRECT, 0o644)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self.output = os.open(self.target, flags, 0o644)
        try:
            os.posix_fallocate(self.output, 0, self.size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise OSError(error.errno, os.strerror(error.errno or 0), self.target) from None
            os.ftruncate(self.output, self.size)

    def write(self, data: memoryview, offset: int) -> None:
        """Write a chunk; its length is a multiple of PAGE, the last one's too (`close` cuts it)."""
        done = 0
        while done < len(data):
            try:
                done += os.pwrite(self.output, data[done:], offset + done)
            except OSError as error:
                flags = fcntl.fcntl(self.output, fcntl.F_GETFL)
                if error.errno != errno.EINVAL or not flags & os.O_DIRECT:
                    raise OSError(error.errno, error.strerror, self.target) from None
                fcntl.fcntl(self.output, fcntl.F_SETFL, flags & ~os.O_DIRECT)

    def close(self) -> None:
        """Whole, also after a power cut."""
        os.ftruncate(self.output, self.size)
        os.fsync(self.output)
        os.close(self.output)


class Inputs:
    """The files that one thread reads, each opened once."""

    def __init__(self) -> None:
        self.descriptors: dict[str, int] = {}

    def descriptor(self, file: str) -> int:
        if file not in self.descriptors:
            self.descriptors[file] = os.open(file, os.O_RDONLY)
        return self.descriptors[file]

    def expect(self, file: str, offset: int) -> None:
        """Have the kernel read the chunk at `offset` beforehand."""
        os.posix_fadvise(self.descriptor(file), offset, CHUNK, os.POSIX_FADV_WILLNEED)

    def fill(self, tensor: Any, file: str, offset: int) -> None:
        """Read the bytes of a contiguous torch tensor from `offset` of `file` on."""
        import torch

        view, done = memoryview(tensor.view(torch.uint8).numpy()).cast("B"), 0
        while done < len(view):
            count = os.preadv(self.descriptor(file), [view[done:]], offset + done)
            if not count:
                raise Refused(f"{file} ended early: it changed while it was read.", "See that nobody writes there, and run it again.")
            done += count

    def close(self) -> None:
        for descriptor in self.descriptors.values():
            os.close(descriptor)
