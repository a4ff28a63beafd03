"""vLLM as data: its command, its stages, its failures. Measured with 0.32.0 on CPU and 0.26.0 on an H200.

The same module on both: `python -m vllm.entrypoints.cli.main serve`, which is what the console script `vllm serve` runs.
"""

from __future__ import annotations

from ..engine import Engine
from ..logs import Explanation, Stage
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

EXPLANATIONS = (
    Explanation(
        r"unrecognized arguments: (.+)",
        "vLLM does not know the flag: {0}",
        "Check the spelling; `<python> -m vllm.entrypoints.cli.main serve --help=all` lists every flag.",
    ),
    Explanation(
        r"error: argument (\S+): invalid choice: '?([^' ]+)'? \(choose from (.+)\)",
        "{0} cannot be {1}.",
        "Choose one of: {2}.",
    ),
    Explanation(r"error: argument (\S+): (.+)", "{0}: {1}.", "Give the flag a value of the right kind."),
    Explanation(
        r"User-specified max_model_len \((\d+)\) is greater than the derived max_model_len \(\w+=(\d+)",
        "The context asked for ({0} tokens) is longer than the one the model was made for ({1}).",
        "Lower max_model_len to the model's own length; longer needs RoPE scaling in the model's config.json.",
    ),
    Explanation(
        r"\((\d+)\), \(?([\d.]+) GiB KV cache is needed, which is larger than the available KV cache memory \(([\d.]+) GiB\)"
        r"(?:.*?estimated maximum model length is (\d+))?",
        "One request of {0} tokens needs {1} GiB of KV cache, and {2} GiB are free for it.",
        "Lower max_model_len (it fits up to about {3} tokens), raise gpu_memory_utilization, or kv_cache_dtype='fp8'.",
    ),
    Explanation(
        r"No available memory for the cache blocks",
        "After loading the weights no memory is left for the KV cache.",
        "Raise gpu_memory_utilization, choose a smaller or quantised model, or spread it: tensor_parallel_size=2.",
    ),
    Explanation(
        r"Free memory on device \S* ?\(([\d.]+)/([\d.]+) GiB\) on startup is less than desired GPU memory utilization \(([\d.]+)",
        "{0} of {1} GiB are free on the GPU, less than the share asked for ({2}).",
        "Something else holds memory: ./lab ps and nvidia-smi; or lower gpu_memory_utilization.",
    ),
    Explanation(
        r"CUDA out of memory|torch\.(?:cuda\.)?OutOfMemoryError",
        "The GPU ran out of memory.",
        "Lower gpu_memory_utilization, max_model_len or max_num_seqs, or choose a smaller profile; ./lab ps shows what else runs.",
    ),
    Explanation(
        r"Bfloat16 is only supported on GPUs with compute capability of at least ([\d.]+)",
        "This GPU has no bfloat16 (it needs compute capability {0}).",
        "dtype='half'.",
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
        r"does not appear to have a file named config\.json|Invalid repository ID or local directory",
        "The folder has no config.json: it is no model, or the download is not complete.",
        "labkit.verify(profile) says what is missing; labkit.download fetches it.",
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
        r"Total number of attention heads \((\d+)\) must be divisible by tensor parallel size \((\d+)\)",
        "{0} attention heads cannot be split over {1} GPUs.",
        "Choose a tensor_parallel_size that divides the number of heads.",
    ),
    Explanation(
        r"World size \((\d+)\) is larger than the number of available GPUs \((\d+)\)",
        "{0} GPUs were asked for, {1} are here.",
        "Lower tensor_parallel_size x pipeline_parallel_size.",
    ),
    Explanation(
        r"Not enough allowed NUMA nodes to bind threads",
        "On CPU tensor parallel wants one NUMA node for each worker, and there are fewer.",
        "Leave tensor_parallel_size at 1 on CPU, or say which cores: VLLM_CPU_OMP_THREADS_BIND='0|1'.",
    ),
    Explanation(
        r"LoRA rank (\d+) is greater than max_lora_rank (\d+)",
        "The adapter has rank {0}, the server was started for {1}.",
        "max_lora_rank={0}.",
    ),
    Explanation(
        r"trust_remote_code=True",
        "The model brings code of its own, which vLLM runs only if told to.",
        "Read that code; then trust_remote_code=True. It runs with all your rights.",
    ),
    Explanation(
        r"Failed to infer device type|No CUDA GPUs are available|Found no NVIDIA driver",
        "vLLM's GPU build found no GPU.",
        "Start the instance with a GPU, or use the CPU list: ./lab doctor.",
    ),
    Explanation(
        r"libnuma\.so\.1: cannot open shared object",
        "libnuma is not installed; vLLM's CPU build needs it.",
        "apt-get install -y libnuma1",
    ),
    Explanation(
        r"invalid literal for int\(\) with base 10: ''", "VLLM_CPU_KVCACHE_SPACE is set, but empty.", "unset VLLM_CPU_KVCACHE_SPACE"
    ),
    Explanation(r"No space left on device", "A disk is full.", "df -h; on AutoDL move caches to the data disk (notebook 01)."),
    Explanation(
        r"Address already in use|address already in use",
        "The port was taken while the engine was starting.",
        "./lab ps and `ss -ltnp` show by whom; choose another port.",
    ),
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
    explanations=EXPLANATIONS,
    kv_tokens=r"[GC]PU KV cache size: ([\d,]+) tokens",
    names=other_names("vllm"),
    environment={"VLLM_NO_USAGE_STATS": "1", "NO_COLOR": "1"},  # a notebook kernel asks for colour, and logs are read by patterns
    # 1 GiB holds a million tokens of the course model; without compilation the first answer comes at once and no compiler is needed
    cpu_environment={"VLLM_CPU_KVCACHE_SPACE": "1", "TORCHDYNAMO_DISABLE": "1"},
    cpu_flags={"enforce_eager": True},
    # the model runs in the engine's own process: one import of vLLM less, and a token leaves when it is made; torch gets one thread
    made_environment={"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
)
