"""vLLM as data: its command, its stages, its failures. Measured with 0.32.0 on CPU and 0.26.0 on an H200.

The same module on both: `python -m vllm.entrypoints.cli.main serve`, which is what the console script `vllm serve` runs.
"""

from __future__ import annotations

from pathlib import Path

from ..common.logs import Explanation, Stage
from .engine import Adapters, Engine
from .pairs import other_names
from .shared import SHARED, code_of_the_model, too_long, unknown_flag

INSIDE = Path(__file__).with_name("inside")
"""What runs in the engine's own Python."""

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
    unknown_flag("vLLM", "vllm.entrypoints.cli.main serve --help=all"),
    too_long("max_model_len", r"\w+="),
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
    *SHARED,
    Explanation(
        r"does not appear to have a file named config\.json|Invalid repository ID or local directory",
        "The folder has no config.json: it is no model, or the download is not complete.",
        "labkit.verify(profile) says what is missing; labkit.download fetches it.",
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
        "max_lora_rank={0}, or the next that vLLM knows: 8, 16, 32, 64, 128, 256, 320, 512.",
    ),
    Explanation(
        r"No adapter found for (\S+)",
        "There is no adapter at {0}: no folder with an adapter_config.json.",
        "Give the folder that training wrote: lora_modules=['name=folder'], or server.load_adapter(name, folder).",
    ),
    Explanation(
        r"expected target modules in \{[^}]*\} but received \['([^']+)'",
        "The adapter changes modules that this model does not have, or that vLLM cannot change: {0}.",
        "labkit.lora.check(base, adapter) lists them; it may belong to another base.",
    ),
    Explanation(
        r"add_lora method failed: The size of tensor a \((\d+)\) must match the size of tensor b \((\d+)\)",
        "The adapter's shapes are not those of this model ({0} against {1}): it was trained on another one.",
        "labkit.lora.check(base, adapter) says which; serve the base that adapter_config.json names.",
    ),
    Explanation(
        r"doesn't contain tensors",
        "The adapter's folder has no adapter_model.safetensors.",
        "Give the folder that training wrote, or the right checkpoint in it.",
    ),
    Explanation(
        r"(?:vLLM (?:does not (?:yet )?support|only supports) ((?:DoRA|LoRA bias|modules_to_save|init_lora_weights|Activated LoRA|"
        r"layer_replication|block-diagonal LoRA|QALoRA)[^.\n]*)|(Adapter bias) is not supported)",
        "vLLM does not serve an adapter of this kind: {0}{1}.",
        "Merge it and serve the merged model: labkit.lora.merge.",
    ),
    Explanation(
        r"LoRA is not enabled\. Use --enable-lora|Invalid JSON format for --lora-modules: (.+)",
        "Adapters were given without enable_lora=True, or not as name=folder. {0}",
        "enable_lora=True, lora_modules=['name=folder'].",
    ),
    code_of_the_model("vLLM"),
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
    # by itself it asks for the key below /v1 only: /invocations and /tokenize would answer anybody
    middleware="require_key.RequireKey",
    environment={
        "VLLM_NO_USAGE_STATS": "1",
        "NO_COLOR": "1",
        "PYTHONPATH": str(INSIDE),
    },  # a notebook kernel asks for colour, and logs are read by patterns
    # 1 GiB holds a million tokens of the course model; without compilation the first answer comes at once and no compiler is needed
    cpu_environment={"VLLM_CPU_KVCACHE_SPACE": "1", "TORCHDYNAMO_DISABLE": "1"},
    cpu_flags={"enforce_eager": True},
    # the model runs in the engine's own process: one import of vLLM less, and a token leaves when it is made; torch gets one thread
    small_environment={"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
)
