"""Failures that both engines word alike: one table, explained the same by vLLM's data and by SGLang's."""

from __future__ import annotations

import re

import pytest

from labkit.common.logs import explain
from labkit.engines import sglang, vllm
from labkit.engines.shared import SHARED

ENGINES = {engine.name: engine for engine in (vllm.ENGINE, sglang.ENGINE)}
FAILURES = {
    "main.py serve: error: argument --dtype: invalid choice: 'float8' (choose from 'auto', 'half')": (
        "--dtype cannot be float8",
        "'auto', 'half'",
    ),
    "main.py serve: error: argument --max-lora-rank: invalid choice: 12 (choose from 1, 8, 16, 32, 64)": (
        "--max-lora-rank cannot be 12",
        "1, 8, 16",
    ),
    "sglang serve: error: argument --port: invalid int value: 'x'": ("--port: invalid int value: 'x'", "value"),
    "RuntimeError: The NVIDIA driver on your system is too old (found version 12040).": ("too old", "CUDA 12 list"),
    "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': './no/such/model'. Use `repo_type`": (
        "no model at ./no/such/model",
        "notebook 02",
    ),
    "OSError: Repo id must use alphanumeric chars, '-', '_' or '.'. The name cannot start or end with '-' or '.': './no-such-model'.": (
        "no model at ./no-such-model",
        "notebook 02",
    ),
    "LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder for the specified revision on the local disk and outgoing": (
        "not in the cache",
        "use_modelscope",
    ),
    "safetensors_rust.SafetensorError: Error while deserializing header: InvalidHeaderDeserialization": ("damaged", "labkit.verify"),
    "safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata": ("damaged", "labkit.verify"),
    "Value error, Cannot find the config file for awq [type=value_error": ("quantization=awq", "config.json"),
    "OSError: [Errno 28] No space left on device": ("disk is full", "df -h"),
    "OSError: [Errno 98] Address already in use": ("port was taken", "ss -ltnp"),
    "[Errno 98] error while attempting to bind on address ('127.0.0.1', 30000): address already in use": ("port was taken", "ss -ltnp"),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("line", FAILURES)
def test_each_failure_is_explained(engine: str, line: str) -> None:
    verdict = explain(f"INFO begin\n{line}\nRuntimeError: it failed above\n", ENGINES[engine].explanations)
    cause, fix = FAILURES[line]
    assert cause in verdict.cause and fix in verdict.fix and verdict.line == line


def test_every_explanation_is_shown_by_a_failure_above() -> None:
    assert not [e.pattern for e in SHARED if not any(re.search(e.pattern, line) for line in FAILURES)]


def test_a_driver_that_is_too_old_is_not_taken_for_a_missing_gpu() -> None:
    log = "UserWarning: The NVIDIA driver on your system is too old (found version 12040).\nRuntimeError: No CUDA GPUs are available\n"
    assert all("too old" in explain(log, engine.explanations).cause for engine in ENGINES.values())
