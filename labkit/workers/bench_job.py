"""What `benchmark.sweeps` and `bench_worker` say to each other. Standard library only: both sides import it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

STATISTICS = ("mean", "median", "p95", "p99")


@dataclass(frozen=True)
class BenchRequest:
    """The arguments of `vllm bench serve`, once for each level, in the order in which they run."""

    levels: Sequence[Sequence[str]]


@dataclass(frozen=True)
class LevelResult:
    """What the client measured of a level. `duration` is seconds, throughputs are requests or tokens per second.

    `completed` counts requests. Latencies are milliseconds by their names in `STATISTICS`.
    """

    completed: int
    duration: float
    request_throughput: float
    output_throughput: float
    total_token_throughput: float
    ttft: dict[str, float]
    tpot: dict[str, float]
    itl: dict[str, float]

    @classmethod
    def read(cls, result: Mapping[str, Any]) -> Self:
        """From the result of the client of vLLM 0.26.0 and 0.32.0. Raises KeyError for another."""
        names = ("completed", "duration", "request_throughput", "output_throughput", "total_token_throughput")
        ttft, tpot, itl = ({kind: result[f"{kind}_{name}_ms"] for kind in STATISTICS} for name in ("ttft", "tpot", "itl"))
        return cls(**{name: result[name] for name in names}, ttft=ttft, tpot=tpot, itl=itl)
