"""Whole logs of real starts, read with each engine's data: the stages in their order, the size of the KV cache, and no failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.engines import ENGINES
from labkit.engines.engine import Engine
from labkit.failures.verdicts import explain

DATA = Path(__file__).parents[1] / "data"
UNSEEN = {"vllm-0.26.0-h200.log": {"capturing CUDA graphs"}}
"""Stages that a log does not show: the bar of this one went to standard error."""


def stages_of(engine: Engine, log: str) -> list[str]:
    """The stages that are passed while `log` is read line by line."""
    current, names = 0, [engine.stages[0].name]
    for line in log.splitlines():
        index = engine.stage_at(line, current)
        if index != current:
            current = index
            names.append(engine.stages[index].name)
    return names


@pytest.mark.parametrize(
    ("file", "tokens"),
    [
        ("vllm-0.26.0-h200.log", 814_112),
        ("vllm-0.32.0-cpu.log", 1_048_576),
        ("sglang-0.5.17-h200.log", 802_975),
        ("sglang-0.5.19-cpu.log", 65_536),
    ],
)
def test_a_start_shows_its_stages_in_order_and_its_kv_cache(file: str, tokens: int) -> None:
    engine, log = ENGINES[file.partition("-")[0]], (DATA / file).read_text()
    expected = [stage.name for stage in engine.stages if "h200" in file or stage.cpu_seconds]
    assert stages_of(engine, log) == [name for name in expected if name not in UNSEEN.get(file, ())]
    assert engine.kv_cache_tokens(log) == tokens


def test_a_good_start_shows_no_failure() -> None:
    logs = sorted(DATA.glob("*.log"))
    assert len(logs) >= 4
    for log in logs:
        verdict = explain(log, engine=log.name.partition("-")[0])
        assert not verdict.found and not verdict.cause, log.name
