"""The worker's half of `launch`: takes the request, says how far it is, answers, and ends with its parent.

`launch.run` starts this file by path with the worker script as its argument, in an engine's environment. There labkit is not
installed: this file makes `import labkit` mean the folder that it lies in, and nothing beside it. Standard library only.
A worker script imports `labkit.workers`, `labkit.chat.reasoning` and nothing else of labkit:

    from labkit.workers import side

    def work(request):
        side.tell("progress", done=1, total=2, note="half")
        return {"answer": 42}

    if __name__ == "__main__":
        side.answer(work)

Events are lines of JSON on what was standard output; prints of libraries go to standard error, which is the log.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import runpy
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

HERE = os.path.dirname(os.path.abspath(__file__))
if __name__ == "__main__" and os.path.samefile(sys.path[0] or ".", HERE):
    sys.path.pop(0)  # this folder is labkit's: its module names must not hide anybody else's

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
    try:
        with _lock:
            print(json.dumps({"event": event, **content}), file=_events, flush=True)
    except BrokenPipeError:  # nobody listens any more; an exception here would end this process alone, without what it forked
        end_group()


def end_with_parent() -> None:
    """Wait for standard input to close, then end this process and whatever it forked."""
    while os.read(0, 4096):
        pass
    end_group()


def end_group() -> NoReturn:
    """End this process and whatever it forked."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def register_labkit(package: str = os.path.dirname(HERE)) -> None:
    """Make `import labkit` mean the folder `package`, and nothing that lies beside it: this Python is another environment's."""
    spec = importlib.util.spec_from_file_location("labkit", os.path.join(package, "__init__.py"), submodule_search_locations=[package])
    if spec is None or spec.loader is None:
        raise ImportError(f"{package} is no package")
    sys.modules["labkit"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["labkit"])


if __name__ == "__main__":
    register_labkit()
    sys.modules["labkit.workers.side"] = sys.modules["__main__"]
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
