"""vLLM as data: its command, its stages. Measured with 0.32.0 on CPU and 0.26.0 on an H200.

The same module on both: `python -m vllm.entrypoints.cli.main serve`, which is what the console script `vllm serve` runs.
"""

from __future__ import annotations

from ..common.logs import Stage
from .engine import Adapters, Engine
from .pairs import other_names

STAGES = (
    Stage("importing vLLM", "", 9, 20),
    Stage("reading the model's config", r"non-default args|vLLM API server version", 5, 14),
    Stage("starting the engine process", r"Initializing a V1 LLM engine", 6, 5),
    Stage("loading the weights", r"Starting to load model|Loading model from scratch", 1, 4),
    Stage("compiling (torch.compile)", r"torch_compile_cache|Start compiling|Dynamo bytecode transform", 0, 22),
    Stage("allocating the KV cache", r"Available KV cache memory|[GC]PU KV cache size", 4, 1),
    Stage("capturing CUDA graphs", r"Capturing CUDA graphs", 0, 5),
    Stage("warming up kernels (first time: compiling them)", r"Graph capturing finished", 0, 77),
    Stage("starting the API", r"init engine \(profile|Starting vLLM server on", 1, 2),
)

ENGINE = Engine(
    name="vllm",
    title="vLLM",
    runtime="vllm",
    module=("vllm.entrypoints.cli.main", "serve"),
    port_variable="LABKIT_PORT_VLLM",
    key_variable="VLLM_API_KEY",
    hub_variable="VLLM_USE_MODELSCOPE",
    stages=STAGES,
    kv_tokens=r"[GC]PU KV cache size: ([\d,]+) tokens",
    names=other_names("vllm"),
    parallel=(
        ("--tensor-parallel-size", "-tp"),
        ("--pipeline-parallel-size", "-pp"),
        ("--data-parallel-size", "-dp"),
    ),
    adapters=Adapters(
        load="/v1/load_lora_adapter",
        unload="/v1/unload_lora_adapter",
        modules="lora_modules",
        rank=16,
        environment={"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"},
        loaded="Loaded new LoRA adapter",
        cpu_slots=8,
    ),
    environment={"VLLM_NO_USAGE_STATS": "1", "NO_COLOR": "1"},  # a notebook kernel asks for colour, and logs are read by patterns
    # 1 GiB holds a million tokens of the course model; without compilation the first answer comes at once and no compiler is needed
    cpu_environment={"VLLM_CPU_KVCACHE_SPACE": "1", "TORCHDYNAMO_DISABLE": "1"},
    cpu_flags={"enforce_eager": True},
    # the model runs in the engine's own process: one import of vLLM less, and a token leaves when it is made; torch gets one thread
    small_environment={"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
)
