#!/usr/bin/env python3
"""How well notebook 04's comparison of the engines repeats: the ratio SGLang / vLLM of each round, and its spread.

    .venv/bin/python bench/comparison_repeat.py [--profile tiny] [--rounds 3] [--levels 1 4 8] [--input-len 64] [--output-len 32]
                                                [--spread 0.5] [--requests N ...] [--restarts 1] [--uncounted 1]

A round is the notebook's: start vLLM, load it at each concurrency with vLLM's client, stop, the same with SGLang. With
--restarts 0 each engine is started once and loaded by one client for all rounds, after --uncounted shorter ones, of a quarter of
the requests (kernels may still be compiled in them); that costs less and leaves out what changes from start to start. The ratio is
that of output tokens/s (`Comparison.ratio`); its spread is (largest - smallest) / median.

Left out, levels, lengths and slots are the notebook's: 1, 4, 8 with 64 tokens in and 32 out for the course model; 1, 16, 64 with
1024 in and 128 out for a real one, each half to one and a half times (--spread 0 makes all alike). In one round both engines get
the same prompts, in the next round others. --requests is the number per level, or one for each level, by default four for each
slot and at least 16: a level of a few seconds is mostly its beginning and its end.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import labkit
from labkit.benchmark.comparison import Comparison, Measured
from labkit.benchmark.load import MIN_REQUESTS, WAVES

ENGINES = {"vllm": "max_num_seqs", "sglang": "max_running_requests"}
LIMIT_PERCENT = 5.0


@dataclass(frozen=True)
class Load:
    """What each engine has to do in a round."""

    profile: str
    levels: list[int]
    input_len: int
    output_len: int
    requests: list[int]
    spread: float

    def measure_both(self, rounds: int, uncounted: int = 0) -> tuple[list[Measured], list[Measured]]:
        """vLLM, then SGLang with the same prompts."""
        vllm = self.measure("vllm", rounds, uncounted)
        return vllm, self.measure("sglang", rounds, uncounted, vllm[0].seed)

    def measure(self, engine: str, rounds: int, uncounted: int, seed: int | None = None) -> list[Measured]:
        """Start `engine`, load it `rounds` times through one client, stop it; one measurement for each round that counts."""
        slots: dict[str, Any] = {ENGINES[engine]: max(self.levels)}
        short = [max(level, count // 4) for level, count in zip(self.levels, self.requests, strict=True)]
        server = labkit.serve(engine, self.profile, owner="kernel", **slots)
        try:
            whole = labkit.measure(
                server,
                self.levels * (uncounted + rounds),
                input_len=self.input_len,
                output_len=self.output_len,
                requests=short * uncounted + self.requests * rounds,
                spread=self.spread,
                seed=seed,
            )
        finally:
            print(server.stop(), flush=True)
        count = len(self.levels)
        chunks = [whole.sweep.runs[number * count : (number + 1) * count] for number in range(uncounted, uncounted + rounds)]
        return [replace(whole, sweep=replace(whole.sweep, runs=chunk)) for chunk in chunks]


def with_restarts(load: Load, rounds: int) -> list[Comparison]:
    """Both engines started anew in every round."""
    comparisons = []
    for number in range(1, rounds + 1):
        vllm, sglang = load.measure_both(1)
        comparisons.append(labkit.compare(vllm[0], sglang[0]))
        say(number, comparisons[-1])
    return comparisons


def within_one_start(load: Load, rounds: int, uncounted: int) -> list[Comparison]:
    """Each engine started once; its first, shorter rounds are not counted."""
    comparisons = [labkit.compare(one, other) for one, other in zip(*load.measure_both(rounds, uncounted), strict=True)]
    for number, comparison in enumerate(comparisons, 1):
        say(number, comparison)
    return comparisons


def say(number: int, comparison: Comparison) -> None:
    for run, other in zip(*(one.sweep.runs for one in comparison.measured), strict=True):
        print(
            f"round {number}, concurrency {run.concurrency}: vLLM {run.output_tokens_per_s:,.1f} and "
            f"SGLang {other.output_tokens_per_s:,.1f} output tokens/s, "
            f"ratio {comparison.ratio(run.concurrency):.3f}, failed {run.failed + other.failed}",
            flush=True,
        )


def spread(values: Sequence[float]) -> float:
    """(largest - smallest) / median, in percent."""
    return 100 * (max(values) - min(values)) / statistics.median(values)


def conclude(comparisons: Sequence[Comparison]) -> None:
    """For each level the ratios, their spread, and that of each engine alone."""
    print(comparisons[0].caption())
    for index, run in enumerate(comparisons[0].measured[0].sweep.runs):
        ratios = [comparison.ratio(run.concurrency) for comparison in comparisons]
        alone = [[comparison.measured[engine].sweep.runs[index].output_tokens_per_s for comparison in comparisons] for engine in (0, 1)]
        print(
            f"concurrency {run.concurrency}: ratios {', '.join(f'{ratio:.3f}' for ratio in ratios)}, "
            f"median {statistics.median(ratios):.3f}, spread {spread(ratios):.1f} % "
            f"(at most {LIMIT_PERCENT:.0f} % wanted); alone: vLLM {spread(alone[0]):.1f} %, "
            f"SGLang {spread(alone[1]):.1f} %"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--levels", type=int, nargs="+")
    parser.add_argument("--input-len", type=int)
    parser.add_argument("--output-len", type=int)
    parser.add_argument("--spread", type=float, default=0.5)
    parser.add_argument("--requests", type=int, nargs="+")
    parser.add_argument("--restarts", type=int, choices=(0, 1), default=1)
    parser.add_argument("--uncounted", type=int, default=1, help="rounds before the counted ones, with --restarts 0")
    chosen = parser.parse_args()
    small = labkit.profile(chosen.profile).name == "tiny"
    levels = chosen.levels or ([1, 4, 8] if small else [1, 16, 64])
    requests = chosen.requests or [max(MIN_REQUESTS, WAVES * level) for level in levels]
    requests = requests * len(levels) if len(requests) == 1 else requests
    if len(requests) != len(levels):
        parser.error(f"--requests takes one number or {len(levels)}, one for each level")
    load = Load(
        profile=chosen.profile,
        levels=levels,
        input_len=chosen.input_len or (64 if small else 1024),
        output_len=chosen.output_len or (32 if small else 128),
        requests=requests,
        spread=chosen.spread,
    )
    conclude(with_restarts(load, chosen.rounds) if chosen.restarts else within_one_start(load, chosen.rounds, chosen.uncounted))


if __name__ == "__main__":
    main()
