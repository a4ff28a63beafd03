"""vLLM's data against the failures as vLLM words them."""

from __future__ import annotations

import pytest

from labkit.common.logs import explain
from labkit.engines.shared import SHARED
from labkit.engines.vllm import EXPLANATIONS

FAILURES = {
    "vllm: error: unrecognized arguments: --max-modle-len 1024": ("--max-modle-len 1024", "spelling"),
    "Value error, User-specified max_model_len (4096) is greater than the derived max_model_len (max_position_embeddings=2048.0 or": (
        "4096 tokens) is longer than the one the model was made for (2048)",
        "max_model_len",
    ),
    "ValueError: To serve at least one request with the model's max seq len (131072), (18.0 GiB KV cache is needed, which is larger than the "
    "available KV cache memory (3.51 GiB). Based on the available memory, the estimated maximum model length is 25552. Try": (
        "131072 tokens needs 18.0 GiB of KV cache, and 3.51",
        "25552",
    ),
    "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`": (
        "no memory is left",
        "gpu_memory_utilization",
    ),
    "ValueError: Free memory on device cuda:0 (3.1/139.8 GiB) on startup is less than desired GPU memory utilization (0.92, 128.62 GiB).": (
        "3.1 of 139.8 GiB are free",
        "nvidia-smi",
    ),
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.": ("ran out of memory", "gpu_memory_utilization"),
    "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your Tesla T4 GPU has compute capability 7.5.": (
        "compute capability 8.0",
        "half",
    ),
    "AssertionError: Not enough allowed NUMA nodes to bind threads of 2 local CPUWorkers.": ("NUMA node", "tensor_parallel_size"),
    "ValueError: Total number of attention heads (32) must be divisible by tensor parallel size (3).": ("32 attention heads", "divides"),
    "ValueError: LoRA rank 64 is greater than max_lora_rank 16.": ("rank 64", "max_lora_rank=64"),
    "ValueError: Call to add_lora method failed: LoRA rank 64 is greater than max_lora_rank 8.": ("rank 64", "max_lora_rank=64"),
    "ValueError: Loading lora x failed: No adapter found for /data/nope": ("no adapter at /data/nope", "lora_modules"),
    "ValueError: Call to add_lora method failed: While loading <path>, expected target modules in {'up_proj', 'lm_head', 'q_proj'} but received "
    "['model.layers.0.self_attn.foo_proj', 'model.layers.1.self_attn.foo_proj']. Please verify that the loaded LoRA module is correct": (
        "model.layers.0.self_attn.foo_proj.",
        "labkit.lora.check",
    ),
    "ValueError: Call to add_lora method failed: The size of tensor a (256) must match the size of tensor b (512) at non-singleton dimension 1": (
        "256 against 512",
        "labkit.lora.check",
    ),
    "ValueError: Call to add_lora method failed: vLLM does not yet support DoRA.": ("of this kind: DoRA.", "labkit.lora.merge"),
    "ValueError: Call to add_lora method failed: Adapter bias is not supported.": ("of this kind: Adapter bias.", "labkit.lora.merge"),
    "ValueError: Call to add_lora method failed: LoRA is not enabled. Use --enable-lora to enable LoRA.": (
        "without enable_lora=True",
        "enable_lora=True",
    ),
    "main.py serve: error: Invalid JSON format for --lora-modules: x": ("not as name=folder. x", "name=folder"),
    "ImportError: libnuma.so.1: cannot open shared object file: No such file": ("libnuma", "apt-get install -y libnuma1"),
}


@pytest.mark.parametrize("line", FAILURES)
def test_each_failure_is_explained(line: str) -> None:
    log = f"(EngineCore pid=7) INFO 11-21 08:00:00 [core.py:1] begin\n(EngineCore pid=7) {line}\nRuntimeError: Engine core initialization failed.\n"
    verdict = explain(log, EXPLANATIONS)
    cause, fix = FAILURES[line]
    assert cause in verdict.cause and fix in verdict.fix and verdict.line == line


def test_every_explanation_is_shown_by_a_failure_above_or_is_rare() -> None:
    import re

    rare = {r"trust_remote_code=True", r"World size", "Failed to infer", "invalid literal", "does not appear", "doesn't contain"}
    unseen = [e.pattern for e in EXPLANATIONS if e not in SHARED and not any(re.search(e.pattern, line) for line in FAILURES)]
    assert all(any(pattern.startswith(start) for start in rare) for pattern in unseen), unseen


def test_an_unknown_failure_gives_the_last_alarming_line() -> None:
    log = 'INFO fine\nValueError: something new happened\n  File "x.py", line 3\nnanobind: leaked 3 instances\n'
    assert explain(log, EXPLANATIONS).line == "ValueError: something new happened"
