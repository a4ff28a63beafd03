"""Disks: how large, how full, and whether what is to be written fits on every file system that it touches.

Covers: free space by file system, with its mount point. Does not cover: quotas that the file system does not report.
Used before the first byte of a download, a merge, an environment, a start of Open-WebUI; and by `machine.host`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .amounts import amount_text
from .errors import NoSpace

MARGIN = 16 * 2**20
"""Bytes left free beside what is needed: folders, locks, logs."""


@dataclass(frozen=True)
class Space:
    """One file system: where it is mounted, bytes needed there and bytes free."""

    mount: Path
    needed: int
    free: int

    @property
    def fits(self) -> bool:
        return self.needed <= self.free

    def __str__(self) -> str:
        verdict = "fits" if self.fits else "does NOT fit"
        return f"{self.mount}: {amount_text(self.needed, 'B')} needed, {amount_text(self.free, 'B')} free: {verdict}"


@dataclass(frozen=True)
class Disk:
    """The file system under `path`; bytes. `device` tells two paths on one disk from two disks."""

    path: Path
    total: int
    free: int
    device: int


def survey(needs: Mapping[Path, int]) -> list[Space]:
    """The file systems that `needs` (folder -> bytes to be written below it) touches, each once; nothing is created."""
    by_device: dict[int, tuple[Path, int]] = {}
    for folder, amount in needs.items():
        there = existing_parent(folder)
        device = there.stat().st_dev
        by_device[device] = (there, by_device.get(device, (there, 0))[1] + amount)
    return [Space(_mount(there), needed, free_bytes(there)) for there, needed in by_device.values()]


def require(needs: Mapping[Path, int]) -> list[Space]:
    """`survey`, after raising `NoSpace` for the first file system on which it does not fit."""
    spaces = survey(needs)
    for space in spaces:
        if not space.fits:
            raise NoSpace(
                f"The file system at {space.mount} has {amount_text(space.free, 'B')} free; {amount_text(space.needed, 'B')} are needed.",
                "Free some space there, or put the data elsewhere: export LABKIT_HOME=<folder on a larger disk>, or folder=... "
                "(AutoDL: the data disk /root/autodl-tmp, which can be enlarged in the console). Nothing was written.",
            )
    return spaces


def disk_of(path: Path) -> Disk:
    """The disk that `path`, which need not exist yet, lies on."""
    existing = existing_parent(path)
    usage = shutil.disk_usage(existing)
    return Disk(path, usage.total, usage.free, existing.stat().st_dev)


def free_bytes(folder: Path) -> int:
    """Bytes free on the file system of `folder`, which need not exist yet."""
    return shutil.disk_usage(existing_parent(folder)).free


def existing_parent(folder: Path) -> Path:
    """`folder`, or the nearest folder above it that is there."""
    folder = folder.expanduser().absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def _mount(folder: Path) -> Path:
    folder = folder.resolve()
    return next(place for place in (folder, *folder.parents) if os.path.ismount(place))
