"""The same wish in vLLM's words and in SGLang's: flags side by side, with what is not quite the same.

Spelt as keywords of `labkit.serve`. Checked against vLLM 0.32.0 and SGLang 0.5.19 (`--help`). Used by notebook 04, and by
`serve` to name the right flag before 10 s of importing. Not here: what a flag does in all detail (each engine's own --help).
"""

from __future__ import annotations

from typing import NamedTuple

from .flags import spelt


class Pair(NamedTuple):
    """One wish. "" where an engine has no such flag."""

    vllm: str
    sglang: str
    english: str
    chinese: str


PAIRS = (
    Pair("max_model_len", "context_length", "longest prompt + answer, in tokens", "提示加回答的最长 token 数"),
    Pair(
        "gpu_memory_utilization",
        "mem_fraction_static",
        "share of the GPU: vLLM counts everything, SGLang weights and KV cache only",
        "显存比例：vLLM 算全部，SGLang 只算权重和 KV cache",
    ),
    Pair("max_num_seqs", "max_running_requests", "requests that run at the same time", "同时运行的请求数"),
    Pair(
        "max_num_batched_tokens",
        "chunked_prefill_size",
        "tokens a step: vLLM counts all, SGLang those of prompts",
        "每步 token 数：vLLM 算全部，SGLang 只算提示",
    ),
    Pair("no_enable_prefix_caching", "disable_radix_cache", "do not keep computed prefixes", "不保留算好的前缀"),
    Pair("enforce_eager", "disable_cuda_graph", "no CUDA graphs: starts sooner, runs slower", "不用 CUDA graph：启动快，运行慢"),
    Pair(
        "tensor_parallel_size",
        "tp_size",
        "split every layer over so many GPUs (SGLang knows both words)",
        "每层切到几张卡（vLLM 的写法 SGLang 也认）",
    ),
    Pair("pipeline_parallel_size", "pp_size", "split the layers into so many groups", "把各层分成几段"),
    Pair("dtype", "dtype", "number format of the weights", "权重的数值格式"),
    Pair("quantization", "quantization", "quantise while loading, e.g. fp8", "加载时量化，如 fp8"),
    Pair(
        "kv_cache_dtype",
        "kv_cache_dtype",
        "fp8 doubles the tokens: vLLM says fp8, SGLang fp8_e4m3",
        "fp8 让 token 数翻倍：vLLM 写 fp8，SGLang 写 fp8_e4m3",
    ),
    Pair("load_format", "load_format", "dummy: random weights", "dummy：随机权重"),
    Pair("served_model_name", "served_model_name", "what clients write as model=", "客户端 model= 写的名字"),
    Pair(
        "reasoning_parser", "reasoning_parser", "deepseek_r1 in vLLM, deepseek-r1 in SGLang", "vLLM 写 deepseek_r1，SGLang 写 deepseek-r1"
    ),
    Pair("chat_template", "chat_template", "a file in place of the model's own template", "用文件代替模型自带的模板"),
    Pair(
        "trust_remote_code",
        "trust_remote_code",
        "run Python that came with the model: with all your rights",
        "运行模型自带的 Python：有你的全部权限",
    ),
    Pair("enable_lora", "enable_lora", "adapters beside the base model (SGLang: GPU only)", "基座旁边挂适配器（SGLang 仅 GPU）"),
    Pair("lora_modules", "lora_paths", "name=folder of each adapter", "每个适配器的 名字=目录"),
    Pair("max_loras", "max_loras_per_batch", "adapters in one batch", "一个 batch 里的适配器数"),
    Pair("max_lora_rank", "max_lora_rank", "largest rank", "最大秩"),
    Pair("seed", "random_seed", "of the sampler", "采样种子"),
    Pair("nnodes", "nnodes", "machines that serve together", "一起服务的机器数"),
    Pair("node_rank", "node_rank", "which of them this one is, from 0", "这台是第几台，从 0 起"),
    Pair("master_addr", "dist_init_addr", "where the first one listens (SGLang: with its port)", "第一台的地址（SGLang 要带端口）"),
    Pair("", "enable_metrics", "GET /metrics: always there in vLLM", "GET /metrics：vLLM 总有"),
)


ALSO_SGLANG = ("tensor_parallel_size", "pipeline_parallel_size")
"""vLLM's words that SGLang takes as well."""


def other_names(engine: str) -> dict[str, str]:
    """Flags that only the other engine knows -> what `engine` ("vllm" or "sglang") calls them, as keywords."""
    two_words = [pair for pair in PAIRS if pair.vllm and pair.sglang and pair.vllm != pair.sglang]
    if engine == "vllm":
        return {pair.sglang: pair.vllm for pair in two_words}
    return {pair.vllm: pair.sglang for pair in two_words if pair.vllm not in ALSO_SGLANG}


class FlagTable:
    """The pairs as a table that shows itself: `labkit.flag_table()`."""

    def __str__(self) -> str:
        rows = [("vLLM", "SGLang", ""), *((_flag(pair.vllm), _flag(pair.sglang), pair.english) for pair in PAIRS)]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        return "\n".join(f"{vllm:{widths[0]}}  {sglang:{widths[1]}}  {text}" for vllm, sglang, text in rows)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        cells = [(_flag(pair.vllm), _flag(pair.sglang), f"{pair.english}<br>{pair.chinese}") for pair in PAIRS]
        left = ' style="text-align:left"'
        rows = "".join(
            f"<tr><td{left}><code>{v}</code></td><td{left}><code>{s}</code></td><td{left}>{text}</td></tr>" for v, s, text in cells
        )
        return f"<table><tr><th>vLLM</th><th>SGLang</th><th></th></tr>{rows}</table>"


def flag_table() -> FlagTable:
    """vLLM's flags and SGLang's side by side."""
    return FlagTable()


def _flag(name: str) -> str:
    return spelt(name) if name else "-"
