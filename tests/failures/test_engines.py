"""What each engine is seen to say, beside what is right: the engines' own words, with what both share held against both."""

from __future__ import annotations

import pytest

from labkit.failures.verdicts import explain_text

VLLM = {
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

SGLANG = {
    "sglang serve: error: unrecognized arguments: --max-modle-len 1024": ("--max-modle-len 1024", "spelling"),
    "ValueError: User-specified context_length (4096) is greater than the derived context_length (512). This may lead to": (
        "4096 tokens) is longer than the one the model was made for (512)",
        "context_length",
    ),
    "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. Current value: mem_fraction_static=0.1": (
        "mem_fraction_static 0.1",
        "smaller or quantised",
    ),
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.": ("ran out of memory", "mem_fraction_static"),
    "RuntimeError: Found no NVIDIA driver on your system. Please check": ("found no driver", 'device="cpu"'),
    "RuntimeError: pin_memory=True requires a CUDA or other accelerator backend; no pinned memory allocator is available on this system.": (
        "found no driver",
        "LoRA in SGLang does",
    ),
    "ValueError: LoRA adapter a with rank 64 is incompatible with the current LoRA memory pool configuration. Please ensure that the LoRA": (
        "adapter a (rank 64)",
        "max_lora_rank=64",
    ),
    "AssertionError: When no initial --lora-paths is provided, you need to specify both --max-lora-rank and --lora-target-modules for LoRA": (
        "neither an adapter nor their size",
        "lora_target_modules",
    ),
    "ValueError: LoRA adapter 'a' contains target modules ['down_proj'] that are not included in the specified --lora-target-modules ['q_proj'].": (
        "adapter a changes modules that SGLang was not told of: ['down_proj']",
        "'all'",
    ),
    "ValueError: Failed to load a because LoRA serving currently doesn't support DoRA adapters": ("DoRA adapters", "labkit.lora.merge"),
}

BOTH = {
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
        "not on this machine",
        "use_modelscope",
    ),
    "safetensors_rust.SafetensorError: Error while deserializing header: InvalidHeaderDeserialization": ("damaged", "labkit.verify"),
    "safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata": ("damaged", "labkit.verify"),
    "Value error, Cannot find the config file for awq [type=value_error": ("quantization=awq", "config.json"),
    "OSError: [Errno 28] No space left on device": ("disk is full", "df -h"),
    "OSError: [Errno 98] Address already in use": ("port was taken", "ss -ltnp"),
    "[Errno 98] error while attempting to bind on address ('127.0.0.1', 30000): address already in use": ("port was taken", "ss -ltnp"),
}


@pytest.mark.parametrize("line", VLLM)
def test_a_failure_of_vllm_is_explained(line: str) -> None:
    log = f"(EngineCore pid=7) INFO 11-21 08:00:00 [core.py:1] begin\n(EngineCore pid=7) {line}\nRuntimeError: Engine core initialization failed.\n"
    verdict = explain_text(log, engine="vllm")
    cause, fix = VLLM[line]
    assert cause in verdict.cause and fix in verdict.fix and verdict.line == line


@pytest.mark.parametrize("line", SGLANG)
def test_a_failure_of_sglang_is_explained(line: str) -> None:
    log = f"[2026-11-21 09:33:42] Init torch distributed begin.\n{line}\nSIGQUIT received. It usually means one child failed.\n"
    verdict = explain_text(log, engine="sglang")
    cause, fix = SGLANG[line]
    assert cause in verdict.cause and fix in verdict.fix and verdict.line == line


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("line", BOTH)
def test_what_both_share_is_explained_alike(engine: str, line: str) -> None:
    verdict = explain_text(f"INFO begin\n{line}\nRuntimeError: Engine core initialization failed. See root cause above.\n", engine=engine)
    cause, fix = BOTH[line]
    assert cause in verdict.cause and fix in verdict.fix and verdict.line == line


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_driver_that_is_too_old_is_not_taken_for_a_missing_gpu(engine: str) -> None:
    log = "UserWarning: CUDA initialization: The NVIDIA driver on your system is too old (found version 12040).\nRuntimeError: No CUDA GPUs are available\n"
    verdict = explain_text(log, engine=engine)
    assert "too old" in verdict.cause and "CUDA 12.4" in verdict.cause and "12040" not in verdict.cause
