"""SGLang as data: its command, its stages, its failures. Measured with 0.5.19 on CPU and 0.5.17 on an H200.

Two things differ from vLLM. SGLang takes its key from a flag or from a --config file, never from the environment; the file
keeps it out of `ps`. And it writes all its arguments, the key among them, into its log at the start; the logging configuration
beside this file (SGLANG_LOGGING_CONFIG_PATH, SGLang's own setting) is its default one, less that line.
"""

from __future__ import annotations

from pathlib import Path

from ..engine import Engine
from ..logs import Explanation, Stage
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

EXPLANATIONS = (
    Explanation(
        r"unrecognized arguments: (.+)",
        "SGLang does not know the flag: {0}",
        "Check the spelling; `<python> -m sglang.launch_server --help` lists every flag.",
    ),
    Explanation(
        r"error: argument (\S+): invalid choice: '?([^' ]+)'? \(choose from (.+)\)",
        "{0} cannot be {1}.",
        "Choose one of: {2}.",
    ),
    Explanation(r"error: argument (\S+): (.+)", "{0}: {1}.", "Give the flag a value of the right kind."),
    Explanation(
        r"context_length \((\d+)\) is greater than the derived context_length \((\d+)\)",
        "The context asked for ({0} tokens) is longer than the one the model was made for ({1}).",
        "Lower context_length to the model's own length; longer needs RoPE scaling in the model's config.json.",
    ),
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
        r"driver on your system is too old \(found version (\d+)\)|CUDA driver version is insufficient|forward compatibility was attempted",
        "The NVIDIA driver is too old for this build of torch (CUDA version the driver offers: {0}).",
        "Use the CUDA 12 list (./lab doctor says which fits) or rent a machine with driver 580 or later.",
    ),
    Explanation(
        r"Repo id must [^\n]*: '([^'\n]+)'\.",
        "There is no model at {0}: it is no folder with a config.json and no id of a hub.",
        "Check the path; labkit.download (notebook 02) puts a course model in its place.",
    ),
    Explanation(
        r"Cannot find an appropriate cached snapshot folder|outgoing traffic has been disabled|couldn't connect to '?https?://",
        "The model id is not in the cache, and the hub cannot be reached (or HF_HUB_OFFLINE=1 forbids it).",
        "Download it first (notebook 02), or serve it from ModelScope: use_modelscope=True.",
    ),
    Explanation(
        r"(?:SafetensorError|Error while deserializing header): ?(\w*)",
        "A weight file is damaged or cut short ({0}).",
        "labkit.verify(profile) names it; labkit.download fetches it again.",
    ),
    Explanation(
        r"Cannot find the config file for (\w+)",
        "quantization={0} was asked for, but this checkpoint is not quantised that way.",
        "Leave the flag out: a quantised checkpoint says so itself in config.json (quantization_config).",
    ),
    Explanation(
        r"trust_remote_code=True",
        "The model brings code of its own, which SGLang runs only if told to.",
        "Read that code; then trust_remote_code=True. It runs with all your rights.",
    ),
    Explanation(
        r"No CUDA GPUs are available|Found no NVIDIA driver|No accelerator \(CUDA",
        "SGLang looked for a GPU and found none.",
        "Start the instance with a GPU. Without one: device='cpu', and no flag that needs CUDA (LoRA does).",
    ),
    Explanation(
        r"Ninja is required|nvcc not found|Could not find nvcc|CUDA_HOME environment variable is not set",
        "SGLang compiles some of its kernels at the first start and found no CUDA compiler.",
        "apt-get install -y cuda-nvcc-13-0 (12-8 for the CUDA 12 list), or choose an image with the CUDA toolkit (devel).",
    ),
    Explanation(r"No space left on device", "A disk is full.", "df -h; on AutoDL move caches to the data disk (notebook 01)."),
    Explanation(
        r"[Aa]ddress already in use",
        "The port was taken while the engine was starting.",
        "./lab ps and `ss -ltnp` show by whom; choose another port.",
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
    model_flag="--model-path",
    hub_variable="SGLANG_USE_MODELSCOPE",
    stages=STAGES,
    explanations=EXPLANATIONS,
    kv_tokens=r"max_total_num_tokens=(\d+)",
    no_prefixes="--disable-radix-cache",
    names=other_names("sglang"),
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
