"""Which servers there are, as `./lab ps` shows them: a row each, from the process table."""

from __future__ import annotations

import time

from ..common import tables
from ..common.amounts import GIB
from ..common.refusals import told
from ..engines import ENGINES
from ..machine import ports
from ..machine.gpu import find
from .process_table import resident_bytes
from .registry import Record, ServerFolder, Status, entries
from .server import Server

HEAD = ("NAME", "STATE", "PORT", "MODEL", "GPU", "OWNER", "MEMORY", "SINCE", "NOTE")


@told()
def overview() -> str:
    """The table of all servers that were ever started here, under their names."""
    rows = [row for entry in entries() if (row := _row(entry))]
    return tables.left((HEAD, *rows))


def _row(entry: ServerFolder) -> tuple[str, ...] | None:
    record, status = entry.record, entry.status()
    if record is None:
        return None if status.note == "never started" else (entry.name, "damaged", "", "", "", "", "", "", status.note)
    since = time.strftime("%m-%d %H:%M", time.localtime(record.created_at))
    gpus = ",".join(device.cuda_name for device in find(record.gpus)) or "-"
    memory = f"{resident_bytes(entry.processes()) / GIB:.1f} GiB" if status.alive else ""
    note = status.note if record.engine in ENGINES else f"{record.engine} is no engine that this labkit knows"
    return (entry.name, _state(entry, record, status), str(record.port), record.model, gpus, record.owner, memory, since, note)


def _state(entry: ServerFolder, record: Record, status: Status) -> str:
    """A server that counts as ready is asked whether it answers; so is one that nobody waits for (`up --no-wait`), whose record says
    for ever that it is starting."""
    if status.state not in ("ready", "starting") or record.engine not in ENGINES:
        return status.state
    answers = Server(ENGINES[record.engine], entry).answers()
    if status.state == "starting":
        return "ready" if answers and ports.listens(record.port, entry.processes()) else "starting"
    return "ready" if answers else "not answering"
