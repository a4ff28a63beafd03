"""The sentences of the catalogue with what a log filled in: no holes, numbers decoded, flags as their user writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..common.amounts import amount_text
from .known import Words

TITLES = {"vllm": "vLLM", "sglang": "SGLang", "open_webui": "Open-WebUI", "llamafactory": "LLaMA-Factory", "verl": "VERL"}
FLAG_OF = {
    "share": {"vllm": "gpu_memory_utilization", "sglang": "mem_fraction_static"},
    "context": {"vllm": "max_model_len", "sglang": "context_length"},
    "batch": {"vllm": "max_num_seqs", "sglang": "max_running_requests"},
    "tensor": {"vllm": "tensor_parallel_size", "sglang": "tp_size"},
    "eager": {"vllm": "enforce_eager=True", "sglang": "disable_cuda_graph=True"},
}
"""What the engines call the same thing."""
FLAGS = frozenset(
    [flag.partition("=")[0] for pair in FLAG_OF.values() for flag in pair.values()]
    + [
        "attention_backend",
        "chat_template",
        "dtype",
        "device",
        "enable_lora",
        "gdn_backend",
        "kv_cache_dtype",
        "lora_modules",
        "lora_paths",
    ]
    + ["lora_target_modules", "max_lora_rank", "max_loras", "max_num_batched_tokens", "pipeline_parallel_size", "quantization"]
    + ["reasoning_parser", "tool_call_parser", "trust_remote_code", "hf_overrides", "json_model_override_args", "skip_mm_profiling"]
    + ["swap_space", "cuda_graph_max_bs", "max_total_tokens", "tokenizer", "disable_custom_all_reduce", "load_format", "sampling_backend"]
)
OTHER_SPELLINGS = {
    "tensor_parallel_size": ("-tp", "--tp", "--tp-size"),
    "tp_size": ("--tp", "--tensor-parallel-size"),
    "pipeline_parallel_size": ("-pp", "--pp-size"),
    "quantization": ("-q",),
}
HOLE = re.compile(r"\{(\w+)\}")
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=\S)|(?<=[。！？])")
SPAN = re.compile(r"`(\w+)(?:=([^`]*))?`")


def filled(text: str, groups: Mapping[str, str | None], engine: str, language: str) -> str:
    """`text` with its {names} filled; a sentence with one that is not known is left out."""
    given = {name: _unquoted(value.strip()) for name, value in groups.items() if value}
    known = {name: decoded(name, value) for name, value in given.items() if value} | named(engine, language)
    sentences = [HOLE.sub(lambda hole: known[hole[1]], part) for part in _sentences(text) if known.keys() >= set(HOLE.findall(part))]
    return _joined(sentences, language)


def _unquoted(value: str) -> str:
    """Without the quotation mark that ends what it did not begin: Python prints a KeyError's message in quotes."""
    return value[:-1] if value[-1:] in ("'", '"') and value.count(value[-1]) % 2 else value


def outlined(text: str, language: str) -> str:
    """`text` for a reader without a log: sentences that only a log can fill are left out, or have three dots where all of them are so."""
    words = named("", language)
    parts = _sentences(text)
    whole = [part for part in parts if words.keys() >= set(HOLE.findall(part))] or parts
    return _joined([HOLE.sub(lambda hole: words.get(hole[1], "..."), part) for part in whole], language)


def _sentences(text: str) -> list[str]:
    return [part for part in SENTENCE.split(text) if part]


def _joined(sentences: Sequence[str], language: str) -> str:
    starts = [f"The {rest}" if (rest := sentence.removeprefix("the ")) != sentence else sentence for sentence in sentences]
    return ("" if language == "zh" else " ").join(starts)


def decoded(name: str, value: str) -> str:
    """A number as people know it, by the end of its name."""
    digits = re.match(r"\d+", value)
    if not digits:
        return value
    number = int(digits[0])
    if name.endswith("_cuda") and number >= 1000:
        return f"{number // 1000}.{number % 1000 // 10}"
    if name.endswith("_arch") and number >= 10:
        return f"{number // 10}.{number % 10}"
    return amount_text(number, "B") if name.endswith("_bytes") else value


def named(engine: str, language: str) -> dict[str, str]:
    """What {engine} and the words for flags stand for; both engines' words where the engine is not known."""
    title, bare = TITLES.get(engine, ""), "引擎" if language == "zh" else "engine"
    words = {"engine": title or (bare if language == "zh" else f"the {bare}"), "engine_name": title or bare}
    for name, flag in FLAG_OF.items():
        words[name] = f"`{flag[engine]}`" if engine in flag else f"`{flag['vllm']}` (SGLang: `{flag['sglang']}`)"
    return words


def as_flags(text: str, given: Sequence[str] = ()) -> str:
    """`text` for a reader of a command line: `max_model_len` is `--max-model-len`, or as `given`, the words of that line, spell it."""

    def flag(span: re.Match[str]) -> str:
        name, value = span[1], (span[2] or "").strip("'\"[]")
        if name not in FLAGS:
            return span[0]
        long = "--" + name.replace("_", "-")
        spelt = {long, "--" + name, *OTHER_SPELLINGS.get(name, ())}
        used = next((word.partition("=")[0] for word in given if word.partition("=")[0] in spelt), long)
        return f"`{used}`" if value in ("", "True") else f"`{used} {value}`"

    return SPAN.sub(flag, text)


def fill(words: Words, groups: Mapping[str, str | None], engine: str) -> Words:
    """Both languages of a text, filled."""
    return Words(filled(words.en, groups, engine, "en"), filled(words.zh, groups, engine, "zh"))
