"""A log taken apart: writers, levels, tracebacks and their chains; what stands before lines without being theirs."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from labkit.failures.outer import peeled, read
from labkit.failures.records import known, records
from labkit.failures.tracebacks import chains
from labkit.failures.verdicts import explain, explain_text

FAILED = """\
(EngineCore_DP0 pid=340) INFO 03-22 09:50:01 [gpu_model_runner.py:1] Starting to load model m...
(EngineCore_DP0 pid=340) ERROR 03-22 09:50:04 [core.py:700] Traceback (most recent call last):
(EngineCore_DP0 pid=340) ERROR 03-22 09:50:04 [core.py:700]   File "/env/lib/python3.12/site-packages/triton/runtime/build.py", line 32, in _build
(EngineCore_DP0 pid=340) ERROR 03-22 09:50:04 [core.py:700]     raise RuntimeError("Failed to find C compiler.")
(EngineCore_DP0 pid=340) ERROR 03-22 09:50:04 [core.py:700] RuntimeError: Failed to find C compiler. Please specify via CC environment variable.
(APIServer pid=210) Traceback (most recent call last):
(APIServer pid=210)   File "/env/lib/python3.12/site-packages/vllm/v1/engine/utils.py", line 9, in wait_for_engine_startup
(APIServer pid=210) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


@pytest.mark.parametrize(
    ("line", "process", "level", "text"),
    [
        ("(EngineCore_DP0 pid=7) ERROR 11-26 10:00:00 [core.py:700] x", "EngineCore_DP0 pid=7", "ERROR", "x"),
        ("(EngineCore pid=7) (Worker_TP1 pid=9) INFO 11-26 10:00:00 [w.py] x", "EngineCore pid=7 Worker_TP1 pid=9", "INFO", "x"),
        ("ERROR 07-24 08:26:01 worker_utils.py:226] x", "", "ERROR", "x"),
        ("[2026-05-16 10:22:50 TP0] x", "TP0", "", "x"),
        ("[2026-05-16 10:22:50.123 DP0 TP0 EP0] x", "DP0 TP0 EP0", "", "x"),
        ("[2026-05-16 10:22:50] WARNING x.py: y", "main", "WARNING", "x.py: y"),
        ("[rank3]: RuntimeError: x", "rank3", "", "RuntimeError: x"),
        ("[rank0]:[W1126 10:00:00.1 ProcessGroupNCCL.cpp:1] Warning: x", "rank0", "WARNING", "Warning: x"),
        ("ERROR:    [Errno 98] x", "", "ERROR", "[Errno 98] x"),
        ("INFO  [alembic.runtime.migration] x", "", "INFO", "x"),
        ("2026-11-26 10:00:00.123 | ERROR    | a.b:c:1 - x", "main", "ERROR", "a.b:c:1 - x"),
        ("Loading shards:  50% Completed | 1/2 [00:01<00:01,  1.9it/s]\r(E pid=1) x", "E pid=1", "", "x"),
        ("\x1b[1;36m(EngineCore pid=7)\x1b[0;0m x\r", "EngineCore pid=7", "", "x"),
    ],
)
def test_who_says_a_line_and_how_loud(line: str, process: str, level: str, text: str) -> None:
    last = records(line + "\n")[-1]
    assert (last.process, last.level, last.text) == (process, level, text)


def test_an_exception_keeps_its_chain_its_message_and_its_place() -> None:
    text = """\
Traceback (most recent call last):
  File "a.py", line 401, in one
    open_it()
FileNotFoundError: [Errno 2] No such file or directory: 'ninja'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/env/lib/python3.12/site-packages/flashinfer/jit/cpp_ext.py", line 9, in build
    raise RuntimeError(
RuntimeError: it did not work:
first line
second line
"""
    (chain,) = chains(records(text))
    assert [one.type for one in chain.raised] == ["FileNotFoundError", "RuntimeError"]
    assert chain.raised[1].message == "it did not work:\nfirst line\nsecond line"
    assert (chain.raised[1].module, chain.raised[1].function, chain.raised[1].link) == ("flashinfer.jit.cpp_ext", "build", "cause")
    assert (chain.raised[0].number, chain.raised[0].source) == (4, "open_it()")


@pytest.mark.parametrize(
    "around",
    [
        'multiprocessing.pool.RemoteTraceback: \n"""\n{}\n"""\n\nThe above exception was the direct cause of the following exception:\n\n'
        "Traceback (most recent call last):\n  File \"b.py\", line 1, in g\nRuntimeError: Worker failed with error 'x', please check the stack trace above for the root cause\n",
        'Traceback (most recent call last):\n  File "b.py", line 1, in g\nray.exceptions.RayTaskError(OSError): ray::Worker.run() (pid=1, ip=1.2.3.4)\n{}\n',
        'Traceback (most recent call last):\n  File "b.py", line 1, in g\ntorch.multiprocessing.spawn.ProcessRaisedException: \n\n'
        "-- Process 0 terminated with the following error:\n{}\n",
    ],
)
def test_an_exception_of_another_process_is_the_root(around: str) -> None:
    inner = "Traceback (most recent call last):\n  File \"a.py\", line 1, in f\n    x()\nOSError: [Errno 122] Disk quota exceeded: '/d'"
    verdict = explain_text(around.format(inner))
    assert (verdict.id, verdict.message) == ("disk-quota", "[Errno 122] Disk quota exceeded: '/d'")


def test_an_exception_group_is_as_its_members() -> None:
    text = """\
ERROR:    Exception in ASGI application
  + Exception Group Traceback (most recent call last):
  |   File "a.py", line 1, in f
  |     yield
  | ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)
  +-+---------------- 1 ----------------
    | Traceback (most recent call last):
    |   File "b.py", line 1, in g
    |     h()
    | OSError: [Errno 24] Too many open files
    +------------------------------------
"""
    assert explain_text(text).message == "[Errno 24] Too many open files"


SHIPPERS: dict[str, Callable[[int, str], str]] = {
    "compose": lambda number, line: f"vllm-1  | {line}",
    "compose with times": lambda number, line: f"vllm-1  | 2026-03-22T09:50:{number:02d}.123Z {line}",
    "kubelet": lambda number, line: f"2026-03-22T09:50:{number:02d}.123456789Z stderr F {line}",
    "kubectl --prefix": lambda number, line: f"[pod/vllm-7d9f/server] {line}",
    "journald": lambda number, line: f"Mar 22 09:50:{number:02d} host vllm[123]: {line}",
    "docker's file": lambda number, line: json.dumps({"log": line + "\n", "stream": "stderr", "time": "t"}),
    "another logger": lambda number, line: f"2026-03-22 09:50:04,{number:03d} - __main__ - INFO - {line}",
    "a quote": lambda number, line: f"> {line}",
    "line numbers": lambda number, line: f"{number}:{line}",
    "colours": lambda number, line: f"\x1b[1;36m{line}\x1b[0;0m",
    "colours without their escape": lambda number, line: f"[1;36m{line}[0;0m",
    "Windows": lambda number, line: f"{line}\r",
}


@pytest.mark.parametrize("shipper", SHIPPERS)
def test_what_others_put_before_lines_changes_nothing(shipper: str) -> None:
    text = "\n".join(SHIPPERS[shipper](number, line) for number, line in enumerate(FAILED.splitlines(), 1))
    verdict = explain_text(text)
    assert (verdict.id, verdict.process, verdict.number) == ("no-c-compiler", "EngineCore_DP0 pid=340", 5)
    assert verdict.message == "Failed to find C compiler. Please specify via CC environment variable."


def test_a_log_of_nobody_else_is_left_as_it_is() -> None:
    lines = FAILED.splitlines()
    assert list(peeled(lines, known)) == lines


@pytest.mark.parametrize("encode", [str.encode, lambda text: text.encode("utf-16"), lambda text: gzip.compress(text.encode())])
def test_a_file_is_read_however_it_was_kept(encode: Callable[[str], bytes], tmp_path: Path) -> None:
    path = tmp_path / "vllm.log"
    path.write_bytes(encode(FAILED))
    assert read(path).splitlines() == FAILED.splitlines()
    verdict = explain(path)
    assert (verdict.id, verdict.place) == ("no-c-compiler", f"{path}:5")
