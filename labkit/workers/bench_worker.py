"""Runs `vllm bench serve` once for each level in one process: a worker script for the vLLM environment, run by `benchmark.sweeps`.

Importing vLLM costs about 20 s, measuring a level often less; so one process does them all. Events: "imported" (version), "begin"
(index), "level" (index, result: a `LevelResult`). Checked against the benchmark client of vLLM 0.26.0 and 0.32.0.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from labkit.workers import side
from labkit.workers.bench_job import BenchRequest, LevelResult


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Run the levels of a `BenchRequest`, all arguments read before the first."""
    import vllm
    from vllm.benchmarks import serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser(prog="vllm bench serve")
    serve.add_cli_args(parser)
    levels = [parser.parse_args(argv) for argv in BenchRequest(**request).levels]
    side.tell("imported", version=vllm.__version__)
    for index, level in enumerate(levels):
        side.tell("begin", index=index)
        side.tell("level", index=index, result=asdict(LevelResult.read(serve.main(level))))
    return {}


if __name__ == "__main__":
    side.answer(work)
