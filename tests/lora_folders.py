"""Model and adapter folders written by hand, with small random numbers."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labkit.models.headers import ITEM_BYTES

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 8,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "vocab_size": 10,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "rope_theta": 1000000,
    "rope_scaling": None,
    "max_position_embeddings": 128,
}
TOKENIZER = {
    "model": {"vocab": {letter: number for number, letter in enumerate("abcdefg")}},
    "added_tokens": [{"content": "<end>", "id": 7}],
}
TOKENIZER_CONFIG = {"eos_token": "<end>", "pad_token": "<end>", "chat_template": "{{ messages }}"}
LORA: dict[str, Any] = {
    "peft_type": "LORA",
    "base_model_name_or_path": "somebody/base",
    "r": 4,
    "lora_alpha": 6,
    "target_modules": ["q_proj", "down_proj"],
    "bias": "none",
}
PREFIX = "base_model.model."


def write_tensors(path: Path, tensors: Shapes, numbers: Mapping[str, bytes] | None = None) -> Path:
    """A safetensors file of small random numbers, the same ones each time; those of `numbers` are the bytes given there, repeated."""
    header: dict[str, Any] = {}
    content = bytearray()
    for name, (dtype, shape) in tensors.items():
        item = ITEM_BYTES[dtype]
        size = math.prod(shape) * item
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(content), len(content) + size]}
        given = (numbers or {}).get(name)
        content += given * (size // len(given)) if given else small_numbers(f"{path.parent.name} {name}", size, item)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)
    return path


def small_numbers(seed: str, size: int, item: int) -> bytes:
    """Of every type with a sign bit and an exponent in front: 0x3c and 0xbc begin a small number, above zero and below."""
    drawn = random.Random(seed)
    content = bytearray(drawn.randbytes(size))
    content[item - 1 :: item] = bytes(drawn.choices((0x3C, 0xBC), k=size // item))
    return bytes(content)


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def model_tensors(dtype: str = "BF16") -> dict[str, tuple[str, tuple[int, ...]]]:
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {"model.embed_tokens.weight": (dtype, (10, 8)), "lm_head.weight": (dtype, (10, 8))}
    for layer in range(2):
        stem = f"model.layers.{layer}"
        tensors |= {
            f"{stem}.self_attn.q_proj.weight": (dtype, (16, 8)),
            f"{stem}.mlp.down_proj.weight": (dtype, (8, 24)),
            f"{stem}.input_layernorm.weight": (dtype, (8,)),
        }
    return tensors


def write_base(folder: Path, tensors: Shapes | None = None, **config: Any) -> Path:
    folder.mkdir()
    write_json(folder / "config.json", {**CONFIG, **config})
    write_json(folder / "tokenizer.json", TOKENIZER)
    write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG)
    write_json(folder / "generation_config.json", {"eos_token_id": 7, "temperature": 0.6})
    write_tensors(folder / "model.safetensors", model_tensors() if tensors is None else tensors)
    return folder


def pairs(rank: int = 4, dtype: str = "F32") -> dict[str, tuple[str, tuple[int, ...]]]:
    """The adapter's tensors for q_proj and down_proj of both layers."""
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for layer in range(2):
        for module, (outputs, inputs) in {"self_attn.q_proj": (16, 8), "mlp.down_proj": (8, 24)}.items():
            stem = f"{PREFIX}model.layers.{layer}.{module}"
            tensors |= {f"{stem}.lora_A.weight": (dtype, (rank, inputs)), f"{stem}.lora_B.weight": (dtype, (outputs, rank))}
    return tensors


def write_adapter(folder: Path, tensors: Shapes | None = None, **config: Any) -> Path:
    folder.mkdir()
    write_json(folder / "adapter_config.json", {**LORA, **config})
    write_tensors(folder / "adapter_model.safetensors", pairs() if tensors is None else tensors)
    return folder
