"""Checkpoint folders of VERL as it lays them out, without numbers in them."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

FULL = ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "lm_head.weight"]
STEM = "base_model.model.model.layers.0.self_attn.q_proj"
ADAPTER = [f"{STEM}.lora_A.default.weight", f"{STEM}.lora_B.default.weight"]
WITH_BASE = [f"{STEM}.base_layer.weight", *ADAPTER]
META = {"r": 8, "lora_alpha": 16, "task_type": "CAUSAL_LM"}


def shard(path: Path, content: object) -> None:
    """A file as torch.save lays it out: a zip of a pickle and the bytes of the tensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}/data.pkl", pickle.dumps(content, protocol=2))
        archive.writestr(f"{path.stem}/data/0", b"0" * 64)


def checkpoint(folder: Path, names: list[str], *, ranks: int = 2, config: bool = True, meta: dict[str, Any] | None = None) -> Path:
    """A whole FSDP checkpoint as VERL 0.9.1 lays it out, without numbers in it."""
    for rank in range(ranks):
        shard(folder / f"model_world_size_{ranks}_rank_{rank}.pt", dict.fromkeys(names))
    (folder / "huggingface").mkdir()
    (folder / "huggingface" / "config.json").write_text("{}")
    if config:
        (folder / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": ranks}))
    if meta:
        (folder / "lora_train_meta.json").write_text(json.dumps(meta))
    return folder


def megatron(folder: Path, *, inside: str = "model") -> Path:
    (folder / inside / "dist_ckpt").mkdir(parents=True)
    (folder / inside / "dist_ckpt" / "__0_0.distcp").write_bytes(b"0" * 64)
    (folder / inside / "huggingface").mkdir()
    (folder / inside / "huggingface" / "config.json").write_text('{"tie_word_embeddings": true}')
    return folder
