"""Device memory that must come back: measured before a start, waited for after a stop, remembered if it does not.

On a GPU the driver frees memory only when the last process that holds it is gone, and in a container NVML cannot say who
that is. So the kit compares each of a server's GPUs with what it was before the start. Where servers share a GPU, only the sum can be
judged: when the last of them has stopped, against what was in use before the first. Without a GPU there is nothing to wait for:
memory is gone with the processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from ..common.amounts import GIB
from ..common.errors import MemoryHeld
from ..common.files import read_json, remove, save
from ..common.progress import Progress
from ..common.settings import settings
from ..machine.gpu import devices, everything, memory_used, overlap
from .registry import Record, alive, entries

TOLERANCE_BYTES = 768 * 2**20
"""What may stay: contexts of other processes come and go. An idle H200 swung by less than 100 MiB."""
RETURN_SECONDS = 30.0
RECENT_SECONDS = 60.0
"""A server that ended longer ago has given back what it ever will; what is in use since may be anybody's."""
POLL_SECONDS = 0.25

Baseline = Mapping[str, int]
"""UUID of a GPU -> bytes in use on it before a start."""


def baseline_of(record: Record) -> dict[str, int]:
    """What was in use before the start of `record` on each of its GPUs. A record of format 1 stands for the machine's first GPUs."""
    uuids = record.gpus or [device.uuid for device in devices()]
    return dict(zip(uuids, record.baseline, strict=False))


def sharers(record: Record) -> dict[str, list[Record]]:
    """The other servers with live processes on each GPU of `record`, on a slice of it or on the card that it is a slice of.

    A GPU that it has for itself is left out.
    """
    others = [other for _, other in alive() if other.name != record.name and other.device == "gpu"]
    every = everything()
    found = {
        uuid: [other for other in others if any(overlap(uuid, its, every) for its in other.gpus or baseline_of(other))]
        for uuid in baseline_of(record) or record.gpus
    }
    return {uuid: there for uuid, there in found.items() if there}


def measure(record: Record) -> list[int]:
    """The baseline for a start of `record` now: bytes in use on each of its GPUs, or before the first of those who share it."""
    now = memory_used(record.gpus)
    shared = sharers(record)
    return [
        min([baseline_of(other).get(uuid, used) for other in shared[uuid]]) if uuid in shared else used
        for uuid, used in zip(record.gpus, now, strict=True)
    ]


def returned(baseline: Baseline) -> bool:
    """Whether every GPU is back to `baseline`, give or take the tolerance."""
    return all(used <= before + TOLERANCE_BYTES for before, used in zip(baseline.values(), memory_used(list(baseline)), strict=True))


def wait_returned(baseline: Baseline, on_wait: Callable[[float], None] = lambda seconds: None) -> bool:
    """Wait until the GPUs are back to `baseline`; False, and remembered for the next start on them, if they are not in time."""
    started = time.monotonic()
    while not returned(baseline):
        elapsed = time.monotonic() - started
        if elapsed > RETURN_SECONDS:
            with suppress(OSError):  # the report says it in any case
                _remember(_noted() | dict(baseline))
            return False
        on_wait(elapsed)
        time.sleep(POLL_SECONDS)
    _remember({uuid: before for uuid, before in _noted().items() if uuid not in baseline})
    return True


def await_crashed(record: Record) -> None:
    """Wait for the memory of servers that ended by themselves a moment ago on a GPU of `record`: it would pass for somebody else's.

    Whoever stops a server waits for its memory (`stopping.stop`); nobody does for one that crashed or whose kernel died.
    """
    for entry in entries():
        other, ended = entry.record, entry.exit
        if other is None or ended is None or other.device != "gpu" or ended.reason == "stopped" or entry.status().alive:
            continue
        if time.time() - ended.ended_at > RECENT_SECONDS:
            continue
        baseline = {uuid: used for uuid, used in baseline_of(other).items() if uuid in record.gpus and uuid not in sharers(other)}
        if baseline and not returned(baseline):
            with Progress(f"GPU memory of {other.name}, which ended", unit="s") as bar:
                wait_returned(baseline, lambda seconds: bar.update(seconds, "waiting for it to come back"))


def require_returned(record: Record) -> None:
    """Raise `MemoryHeld` if an earlier stop left memory behind on a GPU of `record` and it is still not back, naming who may hold it.

    A GPU that is shared is not judged: what its other servers hold cannot be told from what was left.
    """
    shared = sharers(record)
    noted = {uuid: before for uuid, before in _noted().items() if uuid in record.gpus and uuid not in shared}
    if returned(noted):
        _remember({uuid: before for uuid, before in _noted().items() if uuid not in noted})
        return
    held = max(used - before for before, used in zip(noted.values(), memory_used(list(noted)), strict=True)) / GIB
    holders = [f"{entry.name} (pids {', '.join(map(str, entry.processes()))})" for entry, record in alive() if record.device == "gpu"]
    who = "; ".join(holders) or "a process outside this kit (nvidia-smi shows it where the container may see it)"
    raise MemoryHeld(
        f"{held:.1f} GiB of GPU memory from an earlier server did not come back. Held by: {who}.",
        "./lab down --all ends what is ours; for the rest: nvidia-smi, or restart the instance.",
    )


def _note() -> Path:
    return settings().state / "memory-held.json"


def _noted() -> dict[str, int]:
    """What did not come back; a note of an older labkit names no GPUs and stands for the machine's first."""
    note = read_json(_note())
    content = note.get("baseline") if isinstance(note, dict) else None
    if isinstance(content, list):
        content = dict(zip((device.uuid for device in devices()), content, strict=False))
    rows = content.items() if isinstance(content, dict) else ()
    return {uuid: used for uuid, used in rows if isinstance(used, int) and used >= 0}


def _remember(baseline: Baseline) -> None:
    if baseline:
        save(_note(), {"baseline": dict(baseline)})
    else:
        remove(_note())
