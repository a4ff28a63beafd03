"""Device memory that must come back: measured before a start, waited for after a stop, remembered if it does not.

On a GPU the driver frees memory only when the last process that holds it is gone, and in a container NVML cannot say who
that is. So the kit compares each device with what it was before the start. Without a GPU there is nothing to wait for:
memory is gone with the processes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from ..common.errors import MemoryHeld
from ..common.settings import settings
from ..machine.gpu import memory_used
from .registry import entries
from .supervisor import write_json

TOLERANCE_BYTES = 768 * 2**20
"""What may stay: contexts of other processes come and go. An idle H200 swung by less than 100 MiB."""
RETURN_SECONDS = 30.0
POLL_SECONDS = 0.25


def returned(baseline: list[int], now: list[int]) -> bool:
    """Whether every device is back to `baseline`, give or take the tolerance."""
    return all(after <= before + TOLERANCE_BYTES for before, after in zip(baseline, now, strict=False))


def wait_returned(baseline: list[int], on_wait: Callable[[float], None] = lambda seconds: None) -> bool:
    """Wait until the devices are back to `baseline`; False, and remembered for the next start, if they are not in time."""
    started = time.monotonic()
    while not returned(baseline, memory_used()):
        elapsed = time.monotonic() - started
        if elapsed > RETURN_SECONDS:
            write_json(_note(), {"baseline": baseline})
            return False
        on_wait(elapsed)
        time.sleep(POLL_SECONDS)
    _note().unlink(missing_ok=True)
    return True


def require_returned() -> None:
    """Raise `MemoryHeld` if an earlier stop left memory behind and it is still not back, naming whoever may hold it."""
    if not _note().exists():
        return
    baseline, now = json.loads(_note().read_text())["baseline"], memory_used()
    if returned(baseline, now):
        _note().unlink(missing_ok=True)
        return
    held = max(after - before for before, after in zip(baseline, now, strict=False)) / 2**30
    holders = [f"{entry.name} (pids {', '.join(map(str, entry.processes()))})" for entry in entries() if entry.processes()]
    who = "; ".join(holders) or "a process outside this kit (nvidia-smi shows it where the container may see it)"
    raise MemoryHeld(
        f"{held:.1f} GiB of GPU memory from an earlier server did not come back. Held by: {who}.",
        "./lab down --all ends what is ours; for the rest: nvidia-smi, or restart the instance.",
    )


def _note() -> Path:
    return settings().state / "memory-held.json"
