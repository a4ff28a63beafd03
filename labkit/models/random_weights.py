"""Random weights in the shape of a real model, and random adapters for it: for measuring, not for reading.

    fill(profile("qwen3-8b-shape"), folder)      16.4 GB of bf16 shards, config, tokenizer: loads like the real model
    random_adapter(folder, out)                  a LoRA on all seven projections of every layer

Neither makes sense as text: time, memory and bytes are those of a real model, what it says is noise. One block of random
numbers is written again and again from changing places, which is as fast as the disk.
Covers: Qwen3. Does not cover: a model that talks (`course_model`), training (`training.finetune`). Used by notebook 06 and bench/merge.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..common import disk
from ..common.errors import SettingError
from ..common.files import draft, require_empty, save
from ..common.progress import Progress
from . import course_model
from .headers import INDEX, ITEM_BYTES, Weights
from .profiles import Profile, Shape

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SPREAD = 0.02
"""Standard deviation of the numbers, as models are initialised."""
BLOCK_ITEMS = 8 * 2**20
STEP = 7919
"""A prime: how far into the block each tensor starts further than the last."""
Row = tuple[str, str, tuple[int, ...]]
"""Name, type as the format writes it, shape."""


def fill(profile: Profile, out: Path | str, *, layers: int | None = None, shard_bytes: int = 4 * 10**9, seed: int = 0) -> Path:
    """Write a model folder in `profile`'s shape with random bf16 weights to `out` and return it.

    `layers` makes it shallower, `shard_bytes` is the most that one file holds. Written beside and renamed. Raises, before
    anything is written: `SettingError` for another architecture than Qwen3 or an `out` that is not empty, `NoSpace`.
    """
    shape = profile.shape if layers is None else replace(profile.shape, layers=layers)
    if shape.architecture != "Qwen3ForCausalLM":
        raise SettingError(f"{profile.name} is a {shape.architecture}.", "Random shards are made for Qwen3 shapes: qwen3-8b-shape.")
    target = require_empty(out)
    rows = list(_model(shape))
    total = sum(map(_size, rows))
    disk.require({target.parent: total})
    with draft(target, "filling") as folder, Progress(f"Writing random weights to {target.name}", total=total, unit="B") as bar:
        course_model.make(replace(profile, weights="dummy", shape=shape), folder)
        shards = list(_shards(rows, shard_bytes))
        weight_map: dict[str, str] = {}
        numbers = _Numbers("BF16", seed)
        for number, members in enumerate(shards, start=1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            _write(folder / file, members, {"BF16": numbers}, bar)
            weight_map |= dict.fromkeys((name for name, _, _ in members), file)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        save(folder / INDEX, index)
    return target


def random_adapter(
    base: Path | str,
    out: Path | str,
    *,
    rank: int = 16,
    alpha: float = 32,
    targets: Sequence[str] = PROJECTIONS,
    dtype: str = "F32",
    seed: int = 1,
) -> Path:
    """Write a PEFT LoRA adapter for `base` with random numbers (lora_B too) to `out` and return it.

    Reads the base's headers only. Raises, before anything is written, `SettingError` for targets that match nothing, a type other
    than "F32" or "BF16", or an `out` that is not empty.
    """
    target, weights = require_empty(out), Weights.read(base)
    if dtype not in ("F32", "BF16"):
        raise SettingError(f"There is no adapter type {dtype!r}.", 'Use "F32" or "BF16".')
    rows: list[Row] = []
    for name, tensor in weights.tensors.items():
        if name.removesuffix(".weight").split(".")[-1] in targets and len(tensor.shape) == 2:
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            rows += [(f"{stem}.lora_A.weight", dtype, (rank, tensor.shape[1])), (f"{stem}.lora_B.weight", dtype, (tensor.shape[0], rank))]
    if not rows:
        raise SettingError(f"{', '.join(targets)} match no matrix of {weights.folder}.", "Compare them with its tensor names.")
    total = sum(map(_size, rows))
    disk.require({target.parent: total})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(weights.folder),
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": list(targets),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    with draft(target, "filling") as folder, Progress(f"Writing a random adapter to {target.name}", total=total, unit="B") as bar:
        _write(folder / "adapter_model.safetensors", rows, {dtype: _Numbers(dtype, seed)}, bar)
        save(folder / "adapter_config.json", config)
    return target


def _model(shape: Shape) -> Iterator[Row]:
    """The tensors of a Qwen3 in the order of its layers."""
    q, kv, hidden = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, shape.hidden
    yield "model.embed_tokens.weight", "BF16", (shape.vocab, hidden)
    for layer in range(shape.layers):
        stem = f"model.layers.{layer}"
        matrices = {"q": (q, hidden), "k": (kv, hidden), "v": (kv, hidden), "o": (hidden, q)}
        yield from ((f"{stem}.self_attn.{name}_proj.weight", "BF16", size) for name, size in matrices.items())
        yield from ((f"{stem}.self_attn.{name}_norm.weight", "BF16", (shape.head_dim,)) for name in "qk")
        yield from ((f"{stem}.mlp.{name}_proj.weight", "BF16", (shape.intermediate, hidden)) for name in ("gate", "up"))
        yield f"{stem}.mlp.down_proj.weight", "BF16", (hidden, shape.intermediate)
        yield from ((f"{stem}.{name}_layernorm.weight", "BF16", (hidden,)) for name in ("input", "post_attention"))
    yield "model.norm.weight", "BF16", (hidden,)
    yield "lm_head.weight", "BF16", (shape.vocab, hidden)


def _size(row: Row) -> int:
    return math.prod(row[2]) * ITEM_BYTES[row[1]]


def _shards(rows: Sequence[Row], max_bytes: int) -> Iterator[list[Row]]:
    members: list[Row] = []
    for row in rows:
        if members and sum(map(_size, members)) + _size(row) > max_bytes:
            yield members
            members = []
        members.append(row)
    yield members


class _Numbers:
    """Random numbers of one type as bytes, without end: each call goes on from another place of one block."""

    def __init__(self, dtype: str, seed: int) -> None:
        import numpy as np

        numbers: Any = np.random.default_rng(seed).standard_normal(BLOCK_ITEMS, dtype=np.float32) * np.float32(SPREAD)
        self.item = ITEM_BYTES[dtype]
        self.block = memoryview(numbers if dtype == "F32" else _bfloat16(numbers)).cast("B")
        self.ones = np.ones(1, np.float32).tobytes() if dtype == "F32" else _bfloat16(np.ones(1, np.float32)).tobytes()
        self.start = 0

    def take(self, size: int) -> Iterator[memoryview]:
        self.start = (self.start + STEP * self.item) % len(self.block)
        position = self.start
        while size:
            part = self.block[position : position + size]
            yield part
            size, position = size - len(part), 0


def _bfloat16(numbers: Any) -> Any:
    """The upper halves of fp32 numbers: cut off, not rounded, which random numbers bear."""
    import numpy as np

    return (numbers.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def _write(path: Path, rows: Sequence[Row], numbers: Mapping[str, _Numbers], bar: Progress) -> None:
    """One safetensors file. Norms are ones, so that what goes through the layers stays in range."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for row in rows:
        header[row[0]] = {"dtype": row[1], "shape": list(row[2]), "data_offsets": [end, end + _size(row)]}
        end += _size(row)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for row in rows:
            source = numbers[row[1]]
            parts = [memoryview(source.ones * math.prod(row[2]))] if len(row[2]) == 1 else source.take(_size(row))
            for part in parts:
                stream.write(part)
            bar.update(bar.done + _size(row), row[0])
