"""What engines leave in shared memory: taken away when nobody uses it, left alone when somebody may."""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

import pytest

from labkit.serving import temporary


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder on the file system of /dev/shm, so that mappings look as they do there."""
    return tmp_path


def put(folder: Path, name: str, age: float = 5.0) -> Path:
    path = folder / name
    path.write_bytes(b"\0" * mmap.PAGESIZE)
    when = time.time() - age
    os.utime(path, (when, when))
    return path


def test_what_nobody_uses_is_removed(shared: Path) -> None:
    names = (
        "sem.mp-f8a1txvo",
        "sem.loky-3386-65h6gjwb",
        "sglang_loads_07b089957953_122284c2.shm",
        "psm_0a1b2c3d",
        "torch_4711_12_0",
        "nccl-Ab12Cd",
    )
    left = [put(shared, name) for name in names]
    temporary.tidy_shared(time.time() - 60, shared)
    assert not any(path.exists() for path in left)


def test_what_is_open_or_mapped_older_younger_or_of_another_name_stays(shared: Path) -> None:
    opened, mapped = put(shared, "psm_aaaa"), put(shared, "psm_bbbb")
    older, younger, foreign = put(shared, "psm_cccc", age=100), put(shared, "psm_dddd", age=0), put(shared, "my-own-data")
    (shared / "psm_eeee").mkdir()
    (shared / "psm_ffff").symlink_to(foreign)
    with opened.open("rb"), mapped.open("r+b") as stream:
        memory = mmap.mmap(stream.fileno(), 0)
        stream.close()
        temporary.tidy_shared(time.time() - 60, shared)
        memory.close()
    assert all(path.exists() for path in (opened, mapped, older, younger, foreign, shared / "psm_eeee", shared / "psm_ffff"))
    temporary.tidy_shared(time.time() - 60, shared)
    assert not opened.exists() and not mapped.exists()


def test_a_machine_without_shared_memory_is_no_error(shared: Path) -> None:
    temporary.tidy_shared(1.0, shared / "nowhere")
