"""Makes the folders of the course models that no hub has: the small one that talks, and the 8B shape without weights.

The small model is a Qwen3 whose layers add nothing to the residual stream: what comes out depends on the last token
alone, through a table of word pairs that is written into the output head. It therefore answers with one of a few
sentences, whatever it is asked, but it goes through every part of a real engine: tokenizer, ChatML template, prefill,
KV cache, sampling, a reasoning block, the end token. It knows nothing.

Covers: config, byte-level BPE tokenizer, chat template, generation settings, safetensors shards with an index.
Does not cover: training; the course model that has learnt a task comes with notebook 06.
Used by notebooks 02 and 03 through profiles whose weights are "made" or "dummy".
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from .errors import ProfileError
from .profiles import Profile, Shape

END, START, STOP, THINK, THOUGHT = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"
SPECIAL = (END, START, STOP, THINK, THOUGHT)
PARAGRAPH = "\n\n"

REASONING = (
    "The user asks about serving.",
    "Let me think: memory first, then speed.",
    "This needs one short answer.",
)
ANSWERS = (
    "vLLM keeps the KV cache in blocks, so many requests share a card. 显存 分成 小块， 多个 请求 共用 一张 卡。",
    "A larger batch raises throughput, but every request waits longer. 批 越大， 吞吐 越高， 每个人 也 等得 越久。",
    "Weights are read once per step: that is what TPOT costs. 每一步 都要 把 权重 读 一遍。",
)
"""Words are separated by spaces; Chinese words are joined without. A sign stays with its word, so that each has one successor."""
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
LIKELY, POSSIBLE, NEVER = 8.0, 7.0, -8.0
"""Logits: the first sentence of a list, the other sentences, everything else."""


def make(profile: Profile, folder: Path) -> Path:
    """Write the model folder of `profile` to `folder` and return it; a folder that is already whole is left alone.

    Written beside and renamed, so that a half-made folder is never found under the name. Raises `ProfileError` for a
    profile that comes from a hub.
    """
    if not profile.local:
        raise ProfileError(f"{profile.name} is a real model; it is downloaded, not made.", "Use labkit.download (notebook 02).")
    if (folder / "config.json").exists():
        return folder
    draft = folder.with_name(folder.name + ".making")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    _write_texts(draft, profile)
    if profile.weights == "made":
        _write_weights(draft, profile.shape)
    draft.rename(folder)
    return folder


def config(shape: Shape, context: int) -> dict[str, Any]:
    """The config.json of a Qwen3 of `shape`; past 32,768 tokens with YaRN, as DeepSeek-R1-0528-Qwen3-8B has it."""
    ends = vocabulary()
    long = {"rope_type": "yarn", "factor": context / 32768, "original_max_position_embeddings": 32768}
    return {
        "architectures": [shape.architecture],
        "model_type": "qwen3",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "max_position_embeddings": context,
        "rope_theta": 1000000,
        "rope_scaling": long if context > 32768 else None,
        "rms_norm_eps": 1e-06,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": ends[END],
        "eos_token_id": ends[STOP],
    }


@cache
def vocabulary() -> dict[str, int]:
    """Token -> id: the 256 bytes (in the usual printable alphabet), each word with its prefixes, the special tokens."""
    tokens = list(_byte_alphabet().values())
    seen = set(tokens)
    for word in _words():
        for end in range(2, len(_printable(word)) + 1):
            piece = _printable(word)[:end]
            if piece not in seen:
                seen.add(piece)
                tokens.append(piece)
    return {token: index for index, token in enumerate([*tokens, *SPECIAL])}


def merges() -> list[list[str]]:
    """The BPE merges: every word grows from its first byte, so a word's merges never cut into another word."""
    pairs: dict[tuple[str, str], None] = {}
    for word in _words():
        letters = _printable(word)
        for end in range(2, len(letters) + 1):
            pairs[letters[: end - 1], letters[end - 1]] = None
    return [list(pair) for pair in pairs]


def _write_texts(folder: Path, profile: Profile) -> None:
    ids = vocabulary()
    special = [
        {
            "id": ids[t],
            "content": t,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": t not in (THINK, THOUGHT),
        }
        for t in SPECIAL
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for token, index in ids.items() if token not in SPECIAL},
            "merges": merges(),
        },
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": STOP,
        "pad_token": END,
        "model_max_length": profile.context,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    _write_json(folder / "config.json", config(profile.shape, profile.context))
    _write_json(folder / "generation_config.json", {"eos_token_id": [ids[STOP], ids[END]], "pad_token_id": ids[END]})
    _write_json(folder / "tokenizer.json", tokenizer)
    _write_json(folder / "tokenizer_config.json", tokenizer_config)
    (folder / "README.md").write_text(f"# {profile.served_name}\n\n{profile.title}.\nMade by labkit/course_model.py. {profile.licence}.\n")


def _write_weights(folder: Path, shape: Shape) -> None:
    """Two shards and their index, as the hubs have it for larger models."""
    from safetensors import TensorSpec, serialize_file

    tensors = {name: _bfloat16(tensor) for name, tensor in _tensors(shape).items()}
    names = sorted(tensors)
    shards = [names[: len(names) // 2], names[len(names) // 2 :]]
    weight_map: dict[str, str] = {}
    for number, members in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        specs = {
            name: TensorSpec(dtype="bfloat16", shape=bits.shape, data_ptr=bits.ctypes.data, data_len=bits.nbytes)
            for name in members
            for bits in [tensors[name]]
        }
        serialize_file(specs, str(folder / file), {"format": "pt"})
        weight_map |= dict.fromkeys(members, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def _tensors(shape: Shape) -> dict[str, Any]:
    """All weights in fp32. o_proj and down_proj are zero: the layers work, and add nothing."""
    import numpy as np

    random = np.random.default_rng(0)

    def noise(*size: int) -> Any:
        return random.normal(0.0, 0.05, size).astype(np.float32)

    embedding, head = _table(shape)
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    tensors = {"model.embed_tokens.weight": embedding, "lm_head.weight": head, "model.norm.weight": np.ones(shape.hidden, np.float32)}
    for layer in range(shape.layers):
        stem = f"model.layers.{layer}"
        tensors |= {
            f"{stem}.input_layernorm.weight": np.ones(shape.hidden, np.float32),
            f"{stem}.post_attention_layernorm.weight": np.ones(shape.hidden, np.float32),
            f"{stem}.self_attn.q_proj.weight": noise(q, shape.hidden),
            f"{stem}.self_attn.k_proj.weight": noise(kv, shape.hidden),
            f"{stem}.self_attn.v_proj.weight": noise(kv, shape.hidden),
            f"{stem}.self_attn.o_proj.weight": np.zeros((shape.hidden, q), np.float32),
            f"{stem}.self_attn.q_norm.weight": np.ones(shape.head_dim, np.float32),
            f"{stem}.self_attn.k_norm.weight": np.ones(shape.head_dim, np.float32),
            f"{stem}.mlp.gate_proj.weight": noise(shape.intermediate, shape.hidden),
            f"{stem}.mlp.up_proj.weight": noise(shape.intermediate, shape.hidden),
            f"{stem}.mlp.down_proj.weight": np.zeros((shape.hidden, shape.intermediate), np.float32),
        }
    return tensors


def _table(shape: Shape) -> tuple[Any, Any]:
    """Embedding and head that hold the word-pair table: hidden unit k stands for the k-th word that can be continued.

    The final RMSNorm makes a one-hot embedding sqrt(hidden) high, so the head is divided by that.
    """
    import numpy as np

    ids, rows = vocabulary(), _continuations()
    if len(rows) >= shape.hidden or len(ids) > shape.vocab:
        raise ProfileError(
            f"{len(rows)} words and {len(ids)} tokens do not fit hidden {shape.hidden}, vocabulary {shape.vocab}.", "Widen the shape."
        )
    units = {word: unit for unit, word in enumerate(rows, start=1)}
    embedding = np.zeros((shape.vocab, shape.hidden), np.float32)
    embedding[:, 0] = 1.0  # every other token: the unit that starts a sentence
    head = np.full((shape.vocab, shape.hidden), NEVER, np.float32)
    head[:, 0] = _logits(shape, {_first(answer): LIKELY for answer in ANSWERS})
    for word, followers in rows.items():
        embedding[ids[_token(word)]] = np.eye(shape.hidden, dtype=np.float32)[units[word]]
        head[:, units[word]] = _logits(shape, followers)
    return embedding, head / np.sqrt(shape.hidden)


def _logits(shape: Shape, followers: dict[str, float]) -> Any:
    import numpy as np

    column = np.full(shape.vocab, NEVER, np.float32)
    for word, logit in followers.items():
        column[vocabulary()[_token(word)]] = logit
    return column


def _continuations() -> dict[str, dict[str, float]]:
    """word -> {next word: logit}. The first sentence of each list is the likeliest way, so temperature 0 always ends."""
    table: dict[str, dict[str, float]] = {"\n": {THINK: LIKELY}, STOP: {"\n": LIKELY}}
    _chain(table, THINK, REASONING, THOUGHT)
    table[THOUGHT] = {PARAGRAPH: LIKELY}
    _chain(table, PARAGRAPH, ANSWERS, STOP)
    return table


def _chain(table: dict[str, dict[str, float]], before: str, sentences: Iterable[str], after: str) -> None:
    for number, sentence in enumerate(sentences):
        path = [before, *_spaced(sentence), after]
        for word, follower in zip(path, path[1:], strict=False):
            table.setdefault(word, {}).setdefault(follower, POSSIBLE if number else LIKELY)


def _spaced(sentence: str) -> list[str]:
    """The words of a sentence as they are joined in text: no space between two Chinese words, one everywhere else."""
    words = sentence.split()
    pairs = zip(words, words[1:], strict=False)
    return [words[0], *(word if not word[0].isascii() and not before[0].isascii() else " " + word for before, word in pairs)]


def _first(sentence: str) -> str:
    return _spaced(sentence)[0]


def _words() -> list[str]:
    sentences = [word for sentence in (*REASONING, *ANSWERS) for word in _spaced(sentence)]
    return list(dict.fromkeys([PARAGRAPH, *sentences]))


def _token(word: str) -> str:
    return word if word in SPECIAL else _printable(word)


def _printable(text: str) -> str:
    alphabet = _byte_alphabet()
    return "".join(alphabet[byte] for byte in text.encode())


@cache
def _byte_alphabet() -> dict[int, str]:
    """Byte -> printable character, the table of GPT-2's byte-level BPE that every ByteLevel tokenizer uses."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + index) for index, byte in enumerate(others)}


def _bfloat16(values: Any) -> Any:
    """The bits of bf16, rounded from fp32 to nearest even; numpy itself has no such type."""
    import numpy as np

    bits = values.astype(np.float32).view(np.uint32)
    return np.ascontiguousarray(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2"))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
