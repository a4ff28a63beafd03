#!/usr/bin/env python3
"""Two servers on two GPUs of one host: whose memory is whose, who may start where, what a stop and a kill give back.

    python bench/two_gpus.py [--profile qwen3-8b-shape]

Needs two GPUs. Starts vLLM on the first and, while it serves, on the second; a third start on a used GPU has to be refused; the first
is stopped while the second serves; then both share one GPU, and the last to stop is judged for both; then kill -9 of the engine's
first process. Prints one line of JSON for each step, with GiB on each GPU as NVML tells, and ends with exit code 1 if a step went
otherwise than it should. Weights are dummy.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from typing import Any

import labkit
from labkit.common.amounts import GIB
from labkit.common.errors import GpuInUse, SettingError
from labkit.machine import gpu
from labkit.serving.server import Server

FLAGS: dict[str, Any] = {"owner": "kernel", "max_num_seqs": 8, "max_model_len": 4096, "enforce_eager": True}
wrong: list[str] = []


def tell(step: str, **facts: Any) -> None:
    print(json.dumps({"step": step, "gib": [round(used / GIB, 1) for used in gpu.memory_used()], **facts}), flush=True)


def expect(step: str, holds: bool, **facts: Any) -> None:
    tell(step, holds=holds, **facts)
    if not holds:
        wrong.append(step)


def serve(profile: str, name: str, index: int, **options: Any) -> Server:
    began = time.monotonic()
    server = labkit.serve("vllm", profile, name=name, gpus=[index], **FLAGS | options)
    tell(f"{name} is ready", seconds=round(time.monotonic() - began, 1), gpus=server.gpus, port=server.port)
    return server


def refused(profile: str, index: int) -> str:
    try:
        labkit.serve("vllm", profile, name="third", gpus=[index], **FLAGS)
    except GpuInUse as error:
        return error.cause
    return ""


def apart(profile: str) -> None:
    """One server a GPU: neither counts the other's memory."""
    first = serve(profile, "first", 0)
    second = serve(profile, "second", 1)
    expect("the second's baseline is its own GPU's", second.memory_baseline[0] < 2 * GIB, bytes=second.memory_baseline)
    for index, name in enumerate(("first", "second")):
        cause = refused(profile, index)
        expect(f"a start on GPU {index} is refused", name in cause, cause=cause)
    os.environ["CUDA_VISIBLE_DEVICES"] = "1"
    expect("only the visible GPU is seen", [device.index for device in gpu.visible()] == [1])
    try:
        gpu.select([0])
        expect("a hidden GPU cannot be chosen", False)
    except SettingError as error:
        expect("a hidden GPU cannot be chosen", True, cause=error.cause)
    del os.environ["CUDA_VISIBLE_DEVICES"]
    with labkit.watch(second, hz=2) as view:
        time.sleep(3)
        tracks = [(track.name, max(filter(None, track.memory))) for track in view.recording.tracks]
    expect("the recording has the server's GPU only", len(tracks) == 1 and tracks[0][1] > 10 * GIB, tracks=tracks)
    report = first.stop()
    expect("the first stops and its memory is back", report.returned and report.memory_after < 2 * GIB, report=str(report))
    expect("the second still serves", second.answers() and second.state == "ready")
    report = second.stop()
    expect("the second stops and its memory is back", report.returned, report=str(report))


def shared(profile: str) -> None:
    """Both on one GPU, a third of it each."""
    first = serve(profile, "first", 1, gpu_memory_utilization=0.4)
    second = serve(profile, "second", 1, gpu_memory_utilization=0.4, share_gpu=True)
    report = first.stop()
    expect("shared: the first is not judged", report.shared == ("second",), report=str(report))
    report = second.stop()
    expect("shared: the last is judged for both", report.returned and not report.shared, report=str(report))


def killed(profile: str) -> None:
    """SIGKILL to the engine's first process."""
    server = serve(profile, "first", 0)
    began = time.monotonic()
    os.kill(server.pid, signal.SIGKILL)
    while (server.alive or gpu.memory_used(server.gpus)[0] > server.memory_baseline[0] + GIB) and time.monotonic() - began < 60:
        time.sleep(0.1)
    expect("killed: nothing is left and the memory is back", not server.alive, seconds=round(time.monotonic() - began, 1))


def main() -> int:
    parser = argparse.ArgumentParser(description="Two servers on two GPUs of one host.")
    parser.add_argument("--profile", default="qwen3-8b-shape")
    chosen = parser.parse_args()
    devices = gpu.devices()
    if len(devices) < 2:
        print(f"{len(devices)} GPUs here; two are needed", file=sys.stderr)
        return 2
    tell("begin", devices=[device.name for device in devices], driver=devices[0].driver)
    for part in (apart, shared, killed):
        part(chosen.profile)
    print("as it should be" if not wrong else f"otherwise than it should be: {wrong}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
