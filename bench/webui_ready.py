#!/usr/bin/env python3
"""What "proven ready" costs over a bare `open-webui serve` to /health: both timed in turn in one run, as a ratio.

    .venv/bin/python bench/webui_ready.py [--profile tiny] [--rounds 3]

Each start has a data folder of its own that is new, so both make the database. The kit's time is webui.serve() from call to
return with a vLLM behind it: port check, guards, start, connections, one answer through the API and one as the page asks. One
warm-up of each is not counted. Prints every time, the ratio of each pair and their median, and the memory of the page.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
import urllib.request

import labkit
from labkit import webui
from labkit.common.settings import settings
from labkit.runtimes import environments
from labkit.webui.data import data
from labkit.webui.launch import PageLaunch


def healthy(port: int) -> bool:
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return bool(opener.open(f"http://127.0.0.1:{port}/health", timeout=5).status == 200)
    except OSError:
        return False


def kit_seconds() -> tuple[float, int]:
    """(seconds, bytes of resident memory once it is proven)."""
    shutil.rmtree(data(settings()).folder, ignore_errors=True)
    started = time.monotonic()
    page = webui.serve(owner="kernel")
    seconds, memory = time.monotonic() - started, sum(process.memory_info().rss for process in page.server.processes())
    page.stop()
    return seconds, memory


def bare_seconds() -> float:
    config = settings()
    own, port = data(config), config.ports["open_webui"]
    shutil.rmtree(own.folder, ignore_errors=True)
    own.folder.mkdir(parents=True)
    launch = PageLaunch(config, own, environments.python("open_webui"), port)
    environment = {**os.environ, **launch.environment, **launch.secrets}
    started = time.monotonic()
    with open(os.devnull, "wb") as null:
        process = subprocess.Popen(launch.argv, env=environment, stdout=null, stderr=null)
        while not healthy(port):
            time.sleep(0.05)
        seconds = time.monotonic() - started
        process.terminate()
        process.wait()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    for engine in ("vllm", "open_webui"):
        os.environ[f"LABKIT_RUNTIME_{engine.upper()}"] = str(environments.python(engine))
    with tempfile.TemporaryDirectory() as home:  # not the user's: data folders are removed between the rounds
        os.environ["LABKIT_HOME"] = home
        compare(chosen.profile, chosen.rounds)


def compare(profile: str, rounds: int) -> None:
    server = labkit.serve("vllm", profile, owner="kernel")
    kit_seconds()
    bare_seconds()
    ratios, most = [], 0
    for number in range(1, rounds + 1):
        (kit, memory), bare = kit_seconds(), bare_seconds()
        ratios.append(kit / bare)
        most = max(most, memory)
        print(f"round {number}: proven ready {kit:.2f} s, bare to /health {bare:.2f} s, ratio {ratios[-1]:.3f}")
    server.stop()
    print(f"median ratio {statistics.median(ratios):.3f} (at most 1.3 wanted); memory {most / 2**20:.0f} MiB (under 400 wanted)")


if __name__ == "__main__":
    main()
