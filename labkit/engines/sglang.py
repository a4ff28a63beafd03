"""SGLang as data: its command, its stages, its failures. Measured with 0.5.19 on CPU and 0.5.17 on an H200.

Two things differ from vLLM. SGLang takes its key from a flag or from a --config file, never from the environment; the file
keeps it out of `ps`. And it writes all its arguments, the key among them, into its log at the start; the logging configuration
beside this file (SGLANG_LOGGING_CONFIG_PATH, SGLang's own setting) is its default one, less that line.
"""

from __future__ import annotations

from pathlib import Path

from ..common.logs import Explanation, Stage
from .engine import Adapters, Engine
from .pairs import other_names
from .shared import SHARED, code_of_the_model, too_long, unknown_flag

LOGGING = Path(__file__).with_name("sglang_logging.json")

STAGES = (
    Stage("importing SGLang", "", 8, 26),
    Stage("starting the scheduler process", r"[Cc]hat template|RLIMIT_NOFILE", 6, 27),
    Stage("loading the weights, allocating the KV cache", r"Init torch distributed begin|Load weight begin", 1, 4),
    Stage("capturing CUDA graphs, prompts (first time: compiling)", r"Capture (?:target prefill|piecewise) CUDA graph begin", 0, 77),
    Stage("capturing CUDA graphs, tokens", r"Capture (?:target decode CUDA|cuda) graph begin", 0, 5),
    Stage("starting the API and warming up", r"Started server process", 2, 9),
)

EXPLANATIONS = (
    unknown_flag("SGLang", "sglang.launch_server --help"),
    too_long("context_length", ""),
    Explanation(
        r"Not enough memory\. Please try to increase --mem-fraction-static(?:\. Current value: mem_fraction_static=([\d.]+))?",
        "After loading the weights no memory is left for the KV cache (mem_fraction_static {0}).",
        "Raise mem_fraction_static if nothing else uses the GPU (./lab ps), choose a smaller or quantised model, or tp_size=2.",
    ),
    Explanation(
        r"CUDA out of memory|torch\.(?:cuda\.)?OutOfMemoryError|Capture (?:\w+ )*cuda graph failed",
        "The GPU ran out of memory.",
        "Lower mem_fraction_static (it leaves too little for activations and CUDA graphs) or max_running_requests; ./lab ps shows "
        "what else runs.",
    ),
    Explanation(
        r"adapter (\S+) with rank (\d+) is incompatible with the current LoRA memory pool",
        "The adapter {0} (rank {1}) does not fit into the room that SGLang made for adapters at the start.",
        "max_lora_rank={1} or more, and lora_target_modules=['all'], at the start.",
    ),
    Explanation(
        r"When no initial --lora-paths is provided",
        "SGLang makes room for adapters at the start, and neither an adapter nor their size was given.",
        "lora_paths=['name=folder'], or max_lora_rank=16 and lora_target_modules=['all'].",
    ),
    Explanation(
        r"LoRA adapter '([^']+)' contains target modules (\[[^\]]*\])",
        "The adapter {0} changes modules that SGLang was not told of: {1}.",
        "lora_target_modules=['all'], or leave the flag out.",
    ),
    Explanation(
        r"LoRA serving currently doesn't support (DoRA adapters|adapters that add tokens)",
        "SGLang does not serve {0}.",
        "Merge it and serve the merged model: labkit.lora.merge.",
    ),
    Explanation(
        r"LoRA is not enabled\. Please set `--enable-lora`",
        "Adapters were given to a server that was started without LoRA.",
        "enable_lora=True.",
    ),
    *SHARED,
    code_of_the_model("SGLang"),
    Explanation(
        r"No CUDA GPUs are available|Found no NVIDIA driver|No accelerator \(CUDA|pin_memory=True requires a CUDA",
        "SGLang looked for a GPU and found none.",
        "Start the instance with a GPU. Without one: device='cpu', and no flag that needs CUDA (LoRA does).",
    ),
    Explanation(
        r"Ninja is required|nvcc not found|Could not find nvcc|CUDA_HOME environment variable is not set",
        "SGLang compiles some of its kernels at the first start and found no CUDA compiler.",
        "apt-get install -y cuda-nvcc-13-0 (12-8 for the CUDA 12 list), or choose an image with the CUDA toolkit (devel).",
    ),
    # SGLang ends itself with SIGKILL after an error, so the exit code says nothing and this is all there is to go by.
    Explanation(
        r"(?m)^(?:\w+\.)*(\w+(?:Error|Exception): [^\n]+)",
        "SGLang failed with {0}",
        "Read the log from that line up: the lines above it say where it happened.",
    ),
)

ENGINE = Engine(
    name="sglang",
    title="SGLang",
    runtime="sglang",
    module=("sglang.launch_server",),
    port_variable="LABKIT_PORT_SGLANG",
    key_flag="config",
    rendezvous=("SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE", "--dist-init-addr", "--dp-size", "--data-parallel-size", "--dp"),
    model_flag="--model-path",
    hub_variable="SGLANG_USE_MODELSCOPE",
    stages=STAGES,
    explanations=EXPLANATIONS,
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
