#!/usr/bin/env python3
"""What a merge costs in labkit.lora.merge, against `cp -r` of the same folder and against PEFT's plain merge, in one run.

    .venv/bin/python bench/merge.py [--rounds 2] [--skip-peft] [--layers N] [--folder DIR] [--keep]

Makes the 8B shape with random weights (16.4 GB in five shards) and a random LoRA on all seven projections of every layer (r=16, fp32).
Each round copies, then merges; PEFT's from_pretrained, merge_and_unload and save_pretrained follow once, bare, without labkit.
Before each, what is still to be written is written out (sync); nothing is dropped from the page cache.
Seconds are wall time of whole processes, imports included. Memory is the peak of resident memory as the kernel counted it (VmHWM),
summed over all processes of a way: for labkit the calling Python and the worker. `cp` is in the coreutils of the system.
Prints every time and the ratios; ends with code 1 if a limit was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from labkit.common import disk
from labkit.common.settings import settings
from labkit.models import random_weights
from labkit.models.profiles import profile
from labkit.runtimes import environments

SHAPE = "qwen3-8b-shape"
COPIES = 2
"""Whole models on the disk at a time: the base and one result."""
COPY_RATIO, MOST_MEMORY, MEMORY_RATIO, SPEED_RATIO = 1.6, 2**30, 20.0, 3.0
PEAK = "int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) * 1024"
LABKIT = f"""
import json, sys
from labkit.lora import merge
merged = merge(*sys.argv[1:])
print(json.dumps({{"peak": merged.peak_bytes + {PEAK}, "changed": merged.changed}}))
"""
PEFT = f"""
import json, sys
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, out = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), adapter).merge_and_unload()
model.save_pretrained(out, max_shard_size="5GB")
print(json.dumps({{"peak": {PEAK}}}))
"""


def copy_seconds(base: Path, out: Path) -> float:
    os.sync()
    started = time.monotonic()
    subprocess.run(["cp", "-r", str(base), str(out)], check=True)
    seconds = time.monotonic() - started
    shutil.rmtree(out)
    return seconds


def merge_cost(python: Path | str, code: str, base: Path, adapter: Path, out: Path) -> tuple[float, int]:
    """(seconds, bytes at the peak) of a whole process that merges; its result is removed."""
    os.sync()
    started = time.monotonic()
    words = [str(python), "-c", code, str(base), str(adapter), str(out)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=Path(__file__).parents[1])
    seconds = time.monotonic() - started
    shutil.rmtree(out)
    return seconds, int(json.loads(done.stdout.splitlines()[-1])["peak"])


def verdict(what: str, value: str, met: bool) -> bool:
    print(f"{what}: {value} {'met' if met else 'MISSED'}")
    return met


def measure(folder: Path, rounds: int, skip_peft: bool) -> bool:
    base, adapter, out = folder / "base", folder / "adapter", folder / "out"
    copies, merges = [], []
    for number in range(1, rounds + 1):
        copies.append(copy_seconds(base, out))
        merges.append(merge_cost(sys.executable, LABKIT, base, adapter, out))
        print(f"round {number}: cp -r {copies[-1]:.1f} s, labkit {merges[-1][0]:.1f} s and {merges[-1][1] / 2**30:.2f} GiB", flush=True)
    seconds, peak = statistics.median(one for one, _ in merges), max(most for _, most in merges)
    ratio = seconds / statistics.median(copies)
    met = [
        verdict("labkit's seconds over those of cp -r", f"{ratio:.2f} (at most {COPY_RATIO} wanted)", ratio <= COPY_RATIO),
        verdict("labkit's peak memory", f"{peak / 2**30:.2f} GiB (at most 1 wanted)", peak <= MOST_MEMORY),
    ]
    if not skip_peft:
        slow, large = merge_cost(environments.python("vllm"), PEFT, base, adapter, out)
        print(f"PEFT: {slow:.1f} s and {large / 2**30:.2f} GiB")
        less, faster = large / peak, slow / seconds
        met += [
            verdict("memory, PEFT over labkit", f"{less:.1f} (at least {MEMORY_RATIO:.0f} wanted)", less >= MEMORY_RATIO),
            verdict("seconds, PEFT over labkit", f"{faster:.1f} (at least {SPEED_RATIO:.0f} wanted)", faster >= SPEED_RATIO),
        ]
    return all(met)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--skip-peft", action="store_true")
    parser.add_argument("--layers", type=int, help="fewer layers than the 8B model's 36, for a small run")
    parser.add_argument("--folder", type=Path, default=settings().home / "bench" / "merge")
    parser.add_argument("--keep", action="store_true", help="leave the model and the adapter where they are")
    chosen = parser.parse_args()
    folder, shape = chosen.folder.absolute(), profile(SHAPE)
    size = int(2 * shape.shape.parameters * (1 if chosen.layers is None else (chosen.layers + 4) / 40))
    print(f"{folder}: about {(COPIES * size) / 1e9:.0f} GB of disk at a time")
    there = (folder / "base").exists()
    disk.require({folder: (COPIES - there) * size})
    try:
        if not there:
            random_weights.fill(shape, folder / "base", layers=chosen.layers)
            random_weights.random_adapter(folder / "base", folder / "adapter")
        return 0 if measure(folder, chosen.rounds, chosen.skip_peft) else 1
    finally:
        shutil.rmtree(folder / "out", ignore_errors=True)
        shutil.rmtree(folder / "out.merging", ignore_errors=True)
        if not chosen.keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
