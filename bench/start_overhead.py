#!/usr/bin/env python3
"""What labkit.serve costs over the same bare `vllm serve`: both timed in turn in one run, as a ratio.

    .venv/bin/python bench/start_overhead.py [--profile tiny] [--rounds 3]

The bare start is the very command line that labkit shows, run with the same environment, until /health is 200; labkit's
is serve() from call to return, which includes the checks before, the guards and the one-token completion. One warm-up of
each is not counted. Prints every time, the ratio of each pair and their median.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import time
import urllib.request
from contextlib import suppress

import labkit
from labkit.common.settings import settings
from labkit.engines import ENGINES
from labkit.serving import keys
from labkit.serving.registry import ServerFolder


def lab_seconds(profile: str) -> float:
    """labkit.serve, from the call to its return."""
    started = time.monotonic()
    server = labkit.serve("vllm", profile, owner="kernel")
    seconds = time.monotonic() - started
    server.stop()
    return seconds


def bare_seconds() -> float:
    """The same command without labkit, from exec to the first /health 200."""
    record = ServerFolder("vllm").record
    assert record is not None, "lab_seconds runs first"
    engine = ENGINES["vllm"]
    environment = {**os.environ, **settings().cache_environment(), **engine.environment, **keys.key_environment(engine, "vllm")}
    environment |= {"HF_HUB_OFFLINE": "1"} | (engine.cpu_environment | engine.small_environment if record.device == "cpu" else {})
    started = time.monotonic()
    process = subprocess.Popen(
        record.command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while not healthy(record.port):
        assert process.poll() is None, "the bare server exited"
        time.sleep(0.05)
    seconds = time.monotonic() - started
    process.terminate()
    process.wait()
    time.sleep(2)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return seconds


def healthy(port: int) -> bool:
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return bool(opener.open(f"http://127.0.0.1:{port}/health", timeout=5).status == 200)
    except OSError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    lab_seconds(chosen.profile)
    bare_seconds()
    ratios = []
    for number in range(1, chosen.rounds + 1):
        lab, bare = lab_seconds(chosen.profile), bare_seconds()
        ratios.append(lab / bare)
        print(f"round {number}: labkit.serve {lab:.2f} s, bare {bare:.2f} s, ratio {ratios[-1]:.3f}")
    print(f"median ratio {statistics.median(ratios):.3f} (at most 1.03 wanted)")


if __name__ == "__main__":
    main()
