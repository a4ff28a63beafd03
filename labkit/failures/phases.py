"""What a start was doing when it failed: reading its settings, loading weights, making the KV cache and graphs, or serving already.

Told by the functions that were running, where a traceback names them, else by the last log line that begins a stage. Memory that
runs out has another cure in each.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from .records import LogLine

WEIGHTS, CACHE, SERVING = "weights", "cache", "serving"
PHASES = ("start", WEIGHTS, CACHE, SERVING)

FUNCTIONS = (
    (
        CACHE,
        r"capture(?:_model|_one_batch_size)?|profile_run|_?dummy_run|determine_available_memory|determine_num_available_blocks|_initialize_kv_caches?"
        r"|initialize_kv_cache\w*|initialize_from_config|_allocate_kv_cache\w*|init_memory_pool|_?init_cuda_graphs|init_device_graphs|compile_or_warm_up_model"
        r"|kernel_warmup|_create_buffers|allocate_kv_cache|initialize_cache|_dummy_sampler_run|warmup\w*|profile_cudagraph_memory",
    ),
    (
        WEIGHTS,
        r"load_model|load_weights|initialize_model|_?initialize_model|make_layers|process_weights_after_loading|create_weights|get_model"
        r"|safetensors_weights_iterator|load_weights_and_postprocess|_load_weights",
    ),
    (SERVING, r"event_loop_\w+|run_busy_loop|_process_engine_step|step_with_batch_queue|run_engine_loop|process_batch_result"),
)
LINES = (
    (SERVING, ("Application startup complete", "fired up and ready to roll", "throughput: ", "Prefill batch", "Decode batch")),
    (
        CACHE,
        ("Model loading took", "Load weight end", "Loading weights took", "emory profiling", "KV Cache is allocated", "KV cache size")
        + ("Available KV cache memory", "Capturing CUDA graph", "CUDA graph begin", "cuda graph begin", "Dynamo bytecode transform")
        + ("torch_compile_cache", "Start compiling", "Memory pool end"),
    ),
    (
        WEIGHTS,
        ("Starting to load model", "Loading model from scratch", "Load weight begin", "Loading safetensors checkpoint shards")
        + ("Loading pt checkpoint shards",),
    ),
    ("start", ("vLLM API server version", "LLM engine (v", "server_args=", "Init torch distributed begin", "non-default args")),
)
"""What log lines say, when a stage begins; the latest stage first."""
_FUNCTIONS = [(phase, re.compile(f"(?:{names})")) for phase, names in FUNCTIONS]


def phase(functions: Collection[str], process: str, number: int, lines: Iterable[LogLine]) -> str:
    """One of `PHASES`, or "" where nothing tells.

    `functions` were running when `process` failed, which is told in line `number`; `lines` are those of the whole log.
    """
    for name, pattern in _FUNCTIONS:
        if any(pattern.fullmatch(function) for function in functions):
            return name
    before = [line for line in lines if line.number < number and line.level in ("", "INFO")]
    told = "\n".join([line.text for line in before])
    own = "\n".join([line.text for line in before if line.process == process])
    if _shown(LINES[:1], told):
        return SERVING
    return _shown(LINES[1:], own) or _shown(LINES[1:], told)


def ready(lines: Iterable[LogLine]) -> bool:
    """Whether the log says that the server was ready once."""
    return bool(_shown(LINES[:1], "\n".join([line.text for line in lines if line.level in ("", "INFO")])))


def _shown(stages: Iterable[tuple[str, tuple[str, ...]]], text: str) -> str:
    return next((name for name, words in stages if any(word in text for word in words)), "")
