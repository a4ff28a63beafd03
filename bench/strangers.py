#!/usr/bin/env python3
"""Who is let in and what is left: the routes that answer without the key, the sockets that listen, a stop, two guards killed at once.

    python bench/strangers.py [--engine vllm sglang] [--profile tiny]

Starts each engine twice. Prints a line of JSON for each step, and ends with exit code 1 if a step went otherwise than it should: an open
route beyond health and metrics, a socket beyond loopback, the key in a command line, memory or a process left. On a GPU with a
profile whose weights are dummy it says nothing of answers.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil

import labkit
from labkit.common.amounts import GIB
from labkit.machine import gpu
from labkit.serving.registry import ServerFolder
from labkit.serving.server import Server

sys.path.append(str(Path(__file__).resolve().parents[1]))
from tests.integration.doors import open_without_key

OPEN = {"/health", "/health_generate", "/metrics", "/metrics/"}
wrong: list[str] = []


def expect(step: str, holds: bool, **facts: Any) -> None:
    print(json.dumps({"step": step, "holds": holds, **facts}), flush=True)
    if not holds:
        wrong.append(step)


def start(engine: str, profile: str) -> Server:
    began = time.monotonic()
    server = labkit.serve(engine, profile, owner="kernel")
    stages = [f"{name}: {seconds:.0f} s" for name, seconds in server.stages]
    expect(f"{engine} is ready", True, seconds=round(time.monotonic() - began), stages=stages)
    return server


def doors(engine: str, server: Server) -> None:
    found = {path for _, path in open_without_key(server)}
    expect(f"{engine}: without the key only health and metrics answer", found <= OPEN, paths=sorted(found))
    pids = {process.pid for process in server.processes()}
    sockets = [one for one in psutil.net_connections("inet") if one.status == psutil.CONN_LISTEN and one.pid in pids]
    away = [str(one.laddr) for one in sockets if one.laddr.ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")]
    expect(f"{engine}: nothing listens beyond loopback", not away, sockets=len(sockets), beyond=away)
    shown = [process.pid for process in psutil.process_iter(["cmdline"]) if server.key in " ".join(process.info["cmdline"] or [])]
    expect(f"{engine}: the key is in no command line", not shown, pids=shown)


def two_guards_killed(engine: str, server: Server) -> None:
    entry = ServerFolder(server.name)
    guards, pids = entry.guards(), [process.pid for process in server.processes()]
    uuids, before = server.gpus, server.memory_baseline
    began = time.monotonic()
    for guard in guards:
        os.kill(guard, signal.SIGKILL)

    def left() -> bool:
        held = any(used > base + GIB for base, used in zip(before, gpu.memory_used(uuids), strict=True))
        return held or any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)

    while left() and time.monotonic() - began < 60:
        time.sleep(0.1)
    seconds, reason = round(time.monotonic() - began, 1), entry.exit.reason if entry.exit else ""
    expect(f"{engine}: two guards killed at once, nothing is left", not left(), seconds=seconds, processes=len(pids), reason=reason)


def main() -> int:
    parser = argparse.ArgumentParser(description="Who is let in and what is left.")
    parser.add_argument("--engine", nargs="+", default=["vllm", "sglang"])
    parser.add_argument("--profile", default="auto")
    chosen = parser.parse_args()
    for engine in chosen.engine:
        server = start(engine, chosen.profile)
        doors(engine, server)
        report = server.stop()
        expect(f"{engine}: a stop leaves nothing", report.returned, report=str(report))
        two_guards_killed(engine, start(engine, chosen.profile))
    print("as it should be" if not wrong else f"otherwise than it should be: {wrong}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
