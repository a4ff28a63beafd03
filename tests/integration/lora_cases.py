"""Tiny random models, adapters of every kind and PEFT's plain merge of each: a script for the vLLM environment's Python.

    lora_cases.py FOLDER [CASE ...]

Writes FOLDER/CASE/{base,adapter,peft} and FOLDER/rows.json. Importing torch, transformers and PEFT takes 20 s, so one process makes them all.
"""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoKrConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen3Config,
)

warnings.filterwarnings("ignore")
SMALL = dict(hidden_size=64, intermediate_size=172, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=300)
SPREAD = 0.05


def qwen3(**changes: Any) -> Any:
    return Qwen3Config(**{**SMALL, "head_dim": 32, "tie_word_embeddings": False, "max_position_embeddings": 128, **changes})


def gpt2(**changes: Any) -> Any:
    return GPT2Config(**{"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 300, "n_positions": 128, **changes})


def qwen_vl() -> Any:
    """Its checkpoint has the names of before transformers 4.52, its adapter those of after."""
    text = {**SMALL, "max_position_embeddings": 128, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}, "bos_token_id": 1}
    vision = dict(depth=1, hidden_size=32, intermediate_size=64, num_heads=2, out_hidden_size=64, fullatt_block_indexes=[0])
    marks = dict(image_token_id=290, video_token_id=291, vision_start_token_id=292, vision_end_token_id=293)
    return Qwen2_5_VLConfig(text_config={**text, "eos_token_id": 2}, vision_config=vision, tie_word_embeddings=False, **marks)


ALL = "all-linear"
CASES: dict[str, dict[str, Any]] = {
    "plain": {"config": qwen3, "lora": dict(r=16, lora_alpha=32, target_modules=ALL)},
    "scale": {"config": qwen3, "lora": dict(r=10, lora_alpha=24, target_modules=ALL)},
    "bf16": {"config": qwen3, "lora": dict(r=10, lora_alpha=24, target_modules=ALL), "saved": torch.bfloat16},
    "fp16": {"config": qwen3, "lora": dict(r=10, lora_alpha=24, target_modules=ALL), "saved": torch.float16},
    "rslora": {"config": qwen3, "lora": dict(r=12, lora_alpha=7, use_rslora=True, target_modules=ALL)},
    "patterns": {
        "config": qwen3,
        "lora": dict(
            r=8,
            lora_alpha=12,
            target_modules=["q_proj", "v_proj", "down_proj"],
            rank_pattern={"v_proj": 3, r"layers\.1\.self_attn\.q_proj": 5},
            alpha_pattern={"down_proj": 9, "^model.layers.0.self_attn.v_proj": 17},
        ),
    },
    "layers": {"config": qwen3, "lora": dict(r=6, lora_alpha=9, target_modules=["q_proj", "up_proj"], layers_to_transform=[1])},
    "regex": {"config": qwen3, "lora": dict(r=6, lora_alpha=9, target_modules=r".*layers\.0.*(k_proj|gate_proj)")},
    "dora": {"config": qwen3, "lora": dict(r=10, lora_alpha=24, use_dora=True, target_modules=ALL)},
    "dora-bf16": {"config": qwen3, "lora": dict(r=10, lora_alpha=24, use_dora=True, target_modules=ALL), "saved": torch.bfloat16},
    "embedding": {"config": qwen3, "lora": dict(r=10, lora_alpha=24, target_modules=["embed_tokens", "lm_head", "q_proj"])},
    "embedding-dora": {"config": qwen3, "lora": dict(r=10, lora_alpha=24, use_dora=True, target_modules=["embed_tokens", "q_proj"])},
    "saved": {"config": qwen3, "lora": dict(r=10, lora_alpha=24, target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"])},
    "saved-norm": {"config": qwen3, "lora": dict(r=10, lora_alpha=24, target_modules=["q_proj"], modules_to_save=["norm"])},
    "bias": {
        "config": lambda: Qwen2Config(**SMALL, tie_word_embeddings=False),
        "lora": dict(r=10, lora_alpha=24, bias="lora_only", target_modules=["q_proj", "o_proj"]),
    },
    "mica": {"config": qwen3, "lora": dict(r=10, lora_alpha=24, init_lora_weights="mica", target_modules=["q_proj", "down_proj"])},
    "tied": {"config": lambda: qwen3(tie_word_embeddings=True), "lora": dict(r=10, lora_alpha=24, target_modules=ALL)},
    "fp16-base": {"config": lambda: LlamaConfig(**SMALL), "lora": dict(r=10, lora_alpha=24, target_modules=ALL), "dtype": torch.float16},
    "fp32-base": {"config": qwen3, "lora": dict(r=10, lora_alpha=24, target_modules=ALL), "dtype": torch.float32},
    "fp32-base-bf16": {
        "config": qwen3,
        "lora": dict(r=10, lora_alpha=24, target_modules=["embed_tokens", "q_proj"]),
        "dtype": torch.float32,
        "saved": torch.bfloat16,
    },
    "conv1d": {"config": gpt2, "lora": dict(r=10, lora_alpha=24, target_modules=ALL)},
    "conv1d-dora": {"config": gpt2, "lora": dict(r=10, lora_alpha=24, use_dora=True, target_modules=["c_attn", "c_proj"])},
    "conv1d-short-names": {"config": gpt2, "lora": dict(r=10, lora_alpha=24, target_modules=["c_attn", "c_fc"]), "strip": "transformer."},
    "wide": {
        "config": lambda: qwen3(hidden_size=1024, intermediate_size=2600, num_hidden_layers=1, vocab_size=18_000),
        "lora": dict(r=10, lora_alpha=24, target_modules=["embed_tokens", "lm_head", "up_proj", "down_proj"]),
    },
    "wide-dora": {
        "config": lambda: qwen3(hidden_size=1000, intermediate_size=2601, num_hidden_layers=1),
        "lora": dict(r=10, lora_alpha=24, use_dora=True, target_modules=["up_proj", "down_proj"]),
    },
    "lokr": {"config": qwen3, "lora": dict(r=10, target_modules=["q_proj"]), "kind": LoKrConfig},
    "tokens": {"config": qwen3, "lora": dict(r=8, target_modules=["q_proj"], trainable_token_indices=[1, 5])},
    "lora-bias": {
        "config": lambda: Qwen2Config(**SMALL, tie_word_embeddings=False),
        "lora": dict(r=8, lora_bias=True, target_modules=["q_proj"]),
    },
    "pissa": {"config": qwen3, "lora": dict(r=8, init_lora_weights="pissa", target_modules=["q_proj"])},
    "tied-head": {"config": lambda: qwen3(tie_word_embeddings=True), "lora": dict(r=8, target_modules=["lm_head", "q_proj"])},
    "tying": {
        "config": lambda: qwen3(tie_word_embeddings=True),
        "lora": dict(r=10, lora_alpha=24, target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    },
    "wrapped": {
        "config": qwen3,
        "lora": dict(r=10, lora_alpha=24, use_dora=True, target_modules=["q_proj"], modules_to_save=["norm"]),
        "keys": lambda name: f"module._orig_mod.{name}".replace(".self_attn.", "._checkpoint_wrapped_module.self_attn."),
    },
    "renamed": {"config": qwen_vl, "lora": dict(r=10, lora_alpha=24, target_modules=["q_proj", "v_proj", "qkv"])},
    "resized": {
        "config": qwen3,
        "lora": dict(r=10, lora_alpha=24, target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
        "grown": 310,
    },
    "tied-apart": {
        "config": lambda: qwen3(tie_word_embeddings=True),
        "lora": dict(r=8, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]),
    },
    "tied-by-default": {"config": gpt2, "lora": dict(r=8, target_modules=["c_attn", "wte"]), "unsaid": "tie_word_embeddings"},
    "backup": {"config": qwen3, "lora": dict(r=8, init_lora_weights="pissa", target_modules=["q_proj", "o_proj"]), "called": True},
    "untrained": {"config": qwen3, "lora": dict(r=8, lora_alpha=16, target_modules=["q_proj"]), "trained": False},
}


def make(folder: Path, case: dict[str, Any]) -> None:
    """The base in several shards, an adapter as if trained, and PEFT's plain merge."""
    torch.manual_seed(0)
    config, lora = case["config"](), {"task_type": "CAUSAL_LM", **case["lora"]}
    model = build(config)
    for parameter in model.parameters():
        parameter.data.normal_(0, SPREAD)
    model.to(case.get("dtype", torch.bfloat16)).save_pretrained(folder / "base", max_shard_size="150KB")
    if case.get("strip"):
        strip(folder / "base", case["strip"])
    base = load(config, folder / "base")
    if case.get("grown"):  # in memory, as for added tokens; the base that fits is saved beside
        base.resize_token_embeddings(case["grown"])
        shutil.move(folder / "base", folder / "smaller")
        base.save_pretrained(folder / "base", max_shard_size="150KB")
        base.config._name_or_path = str(folder / "smaller")
    wrapped = get_peft_model(base, case.get("kind", LoraConfig)(**lora))
    if case.get("trained", True) and not case.get("called"):
        pretend_training(wrapped)
    if "called" in case:  # as LLaMA-Factory's callback saves it
        wrapped.peft_config["default"].init_lora_weights = case["called"]
    wrapped.save_pretrained(folder / "adapter")
    if case.get("unsaid"):
        told = json.loads((folder / "base" / "config.json").read_text())
        (folder / "base" / "config.json").write_text(json.dumps({name: value for name, value in told.items() if name != case["unsaid"]}))
    weights = folder / "adapter" / "adapter_model.safetensors"
    if case.get("saved"):
        save_file({name: tensor.to(case["saved"]) for name, tensor in load_file(weights).items()}, weights)
    merged = PeftModel.from_pretrained(load(config, folder / "base"), folder / "adapter").merge_and_unload()
    merged.save_pretrained(folder / "peft")
    if case.get("keys"):
        save_file({case["keys"](name): tensor for name, tensor in load_file(weights).items()}, weights)


def build(config: Any) -> Any:
    if isinstance(config, Qwen2_5_VLConfig):
        return Qwen2_5_VLForConditionalGeneration(config)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def load(config: Any, folder: Path) -> Any:
    kind = Qwen2_5_VLForConditionalGeneration if isinstance(config, Qwen2_5_VLConfig) else AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype="auto")


def pretend_training(wrapped: Any) -> None:
    """Numbers as after training: none of them zero, none of them a power of two."""
    for name, parameter in wrapped.named_parameters():
        if "magnitude" in name:
            parameter.data *= 1 + 0.1 * torch.rand_like(parameter)
        elif parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * SPREAD


def strip(folder: Path, prefix: str) -> None:
    """Names without their first part, as GPT-2's own checkpoint has them."""
    for shard in folder.glob("*.safetensors"):
        tensors = load_file(shard)
        save_file({name.removeprefix(prefix): tensor for name, tensor in tensors.items()}, shard, {"format": "pt"})
    index = folder / "model.safetensors.index.json"
    if index.exists():
        content = json.loads(index.read_text())
        content["weight_map"] = {name.removeprefix(prefix): file for name, file in content["weight_map"].items()}
        index.write_text(json.dumps(content))


def rows_alone_are_the_same() -> bool:
    """Whether this processor's matrix product gives a few rows the bits that it gives them in the whole."""
    b, a = torch.randn(2600, 10), torch.randn(10, 1024)
    whole = b @ a
    return all(torch.equal(b[first : first + 128] @ a, whole[first : first + 128]) for first in range(0, 2600, 128))


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:] or list(CASES)
    (folder / "rows.json").write_text(json.dumps(rows_alone_are_the_same()))
    for name in names:
        make(folder / name, CASES[name])


if __name__ == "__main__":
    main()
