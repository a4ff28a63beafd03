"""The worker's half of `worker`: takes the request, says how far it is, answers, and ends with its parent.

`worker.run` starts this file by path with the worker script as its argument, in an engine's environment; the script then
says `import worker_side`. Standard library only. A worker script is:

    import worker_side

    def work(request):
        worker_side.tell("progress", done=1, total=2, note="half")
        return {"answer": 42}

    if __name__ == "__main__":
        worker_side.answer(work)

Events are lines of JSON on what was standard output; prints of libraries go to standard error, which is the log.
"""

from __future__ import annotations

import json
import os
import sys

if __name__ == "__main__" and os.path.samefile(sys.path[0] or ".", os.path.dirname(__file__)):
    sys.path.pop(0)  # this folder is labkit's: its module names must not hide anybody else's

import errno
import runpy
import signal
import threading
from collections.abc import Callable
from typing import Any, TextIO

_events: TextIO | None = None
_lock = threading.Lock()


class Refused(Exception):
    """Something the reader can put right: becomes a `LabError` with the same cause and fix; `kind` names one of its children."""

    def __init__(self, cause: str, fix: str = "", kind: str = "LabError") -> None:
        super().__init__(cause)
        self.cause, self.fix, self.kind = cause, fix, kind


def answer(work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Read the request, do the work, tell the result or the error; anything unforeseen leaves its traceback in the log."""
    request = read_request()
    try:
        tell("result", **work(request))
    except Refused as refused:
        tell("error", kind=refused.kind, cause=refused.cause, fix=refused.fix)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" while {error.filename} was written" if error.filename else ""
        tell("error", kind="NoSpace", cause=f"The disk is full{where}.", fix="Free some space there, and run it again.")


def read_request() -> dict[str, Any]:
    """The request; from here on events have standard output for themselves, and this process ends with its parent."""
    global _events
    _events = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 65536)  # not sys.stdin: a thread that holds its lock would break the interpreter's own exit
        if not byte:
            os._exit(1)
        line += byte
    threading.Thread(target=end_with_parent, daemon=True).start()
    request: dict[str, Any] = json.loads(line)
    return request


def tell(event: str, **content: Any) -> None:
    """One event: "progress" (done, total, note), "line" (text), "error", "result", or a kind of the script's own."""
    with _lock:
        print(json.dumps({"event": event, **content}), file=_events, flush=True)


def end_with_parent() -> None:
    """Wait for standard input to close, then end this process and whatever it forked."""
    while os.read(0, 4096):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    sys.modules["worker_side"] = sys.modules["__main__"]
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
