"""SGLang as data: its command, its stages. Measured with 0.5.19 on CPU and 0.5.17 on an H200.

Two things differ from vLLM. SGLang takes its key from a flag or from a --config file, never from the environment; the file
keeps it out of `ps`. And it writes all its arguments, the key among them, into its log at the start; the logging configuration
beside this file (SGLANG_LOGGING_CONFIG_PATH, SGLang's own setting) is its default one, less that line.
"""

from __future__ import annotations

from pathlib import Path

from ..common.logs import Stage
from .engine import Adapters, Engine
from .pairs import other_names

LOGGING = Path(__file__).with_name("sglang_logging.json")

STAGES = (
    Stage("importing SGLang", "", 8, 26),
    Stage("starting the scheduler process", r"[Cc]hat template|RLIMIT_NOFILE", 6, 27),
    Stage("loading the weights, allocating the KV cache", r"Init torch distributed begin|Load weight begin", 1, 4),
    Stage("capturing CUDA graphs, prompts (first time: compiling)", r"Capture (?:target prefill|piecewise) CUDA graph begin", 0, 77),
    Stage("capturing CUDA graphs, tokens", r"Capture (?:target decode CUDA|cuda) graph begin", 0, 5),
    Stage("starting the API and warming up", r"Started server process", 2, 9),
)

ENGINE = Engine(
    name="sglang",
    title="SGLang",
    runtime="sglang",
    module=("sglang.launch_server",),
    port_variable="LABKIT_PORT_SGLANG",
    key_flag="config",
    model_flag="--model-path",
    hub_variable="SGLANG_USE_MODELSCOPE",
    stages=STAGES,
    kv_tokens=r"max_total_num_tokens=(\d+)",
    parallel=(
        ("--tp-size", "--tensor-parallel-size", "--tp"),
        ("--pp-size", "--pipeline-parallel-size", "--pp"),
        ("--dp-size", "--data-parallel-size", "--dp"),
    ),
    no_prefixes="--disable-radix-cache",
    names=other_names("sglang"),
    # model="aiops" would be answered by the base: SGLang does not look at the name before the colon
    adapters=Adapters(
        load="/load_lora_adapter", unload="/unload_lora_adapter", modules="lora_paths", model="{base}:{adapter}", gpu_only=True
    ),
    values={"reasoning_parser": {"deepseek_r1": "deepseek-r1"}},
    environment={
        "SGLANG_LOGGING_CONFIG_PATH": str(LOGGING),
        # else a server whose worker died holds port and GPU for 60 s more, waiting for dumps that nobody switched on
        "SGLANG_CUDA_COREDUMP_BEFORE_CRASH": "0",
        "SGLANG_PYSPY_DUMP_BEFORE_CRASH": "0",
    },
    flags={"enable_metrics": True},
    # its CPU kernels are in no package of PyPI: transformers' model code and torch's attention need none
    cpu_flags={
        "device": "cpu",
        "model_impl": "transformers",
        "attention_backend": "torch_native",
        "mem_fraction_static": 0.1,
        "max_total_tokens": 65_536,
    },
)
