"""Two ranks train a step and write checkpoints in VERL's layout: a script for the environment of VERL, not imported by labkit.

    python practice_worker.py BASE OUT      (`training.verl.practise`; the tests take the same)

OUT/full and OUT/lora are checkpoints (FSDP2; their names as VERL's FSDPCheckpointManager gives them), OUT/lora_only holds what
`save_lora_only` keeps of the second, OUT/old is the first as VERL wrote it before fsdp_config.json (FSDP1). OUT/*.reference are
what converting them must give: rank 0 gathers the weights, and PEFT merges the adapter.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [place for place in sys.path if os.path.abspath(place) != HERE]  # labkit's module names must not hide anybody else's

import copy
import json
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from peft import LoraConfig, PeftModel, get_peft_model
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardedStateDictConfig, StateDictType, fully_shard
from transformers import AutoModelForCausalLM, AutoTokenizer

RANKS = 2
RANK, ALPHA = 8, 24
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def main(rank: int, base: str, out: Path, meeting: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=RANKS)
    mesh = init_device_mesh("cpu", (RANKS,), mesh_dim_names=("fsdp",))
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base)

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    texts = (model.config, model.generation_config, tokenizer)
    fsdp = {"FSDP_version": 2, "world_size": RANKS}
    old = copy.deepcopy(model)
    shard(model, mesh)
    learn(model, tokenizer, 1e-2)
    save(out / "full", model.state_dict(), texts, fsdp)
    whole = get_model_state_dict(model, options=WHOLE)
    if rank == 0:
        write_model(out / "full.reference", base, whole)

    old = FullyShardedDataParallel(old, device_mesh=mesh, use_orig_params=True, device_id=torch.device("cpu"))
    learn(old, tokenizer, 1e-2)
    with FullyShardedDataParallel.state_dict_type(old, StateDictType.SHARDED_STATE_DICT, ShardedStateDictConfig(offload_to_cpu=False)):
        save(out / "old", old.state_dict(), texts)

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"))
    shard(model.get_base_model(), mesh)
    learn(model, tokenizer, 1.0)  # lora_B starts at zero
    learn(model, tokenizer, 1.0)
    meta = {"r": RANK, "lora_alpha": ALPHA, "task_type": "CAUSAL_LM"}
    state = model.state_dict()
    save(out / "lora", state, texts, fsdp, meta)
    save(out / "lora_only", {key: value for key, value in state.items() if "lora_" in key}, texts, fsdp, meta)
    whole = get_model_state_dict(model, options=WHOLE)
    if rank == 0:
        write_merged(out / "lora.reference", base, {key: value for key, value in whole.items() if "lora_" in key})
    dist.barrier()
    dist.destroy_process_group()


def shard(model, mesh) -> None:  # type: ignore[no-untyped-def]
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def learn(model, tokenizer, rate: float) -> None:  # type: ignore[no-untyped-def]
    """One step of plain gradient descent, the same on both ranks."""
    ids = tokenizer("The KV cache is full, so requests wait.", return_tensors="pt").input_ids
    model(input_ids=ids, labels=ids).loss.backward()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.grad is not None:
                weight -= rate * weight.grad
                weight.grad = None


def save(folder: Path, state, texts, fsdp=None, meta=None) -> None:  # type: ignore[no-untyped-def]
    """Every rank its own shard; rank 0 also the config, generation settings and tokenizer in `texts`, and what is not None."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / f"model_world_size_{RANKS}_rank_{dist.get_rank()}.pt")
    if dist.get_rank() == 0:
        for text in texts:
            text.save_pretrained(folder / "huggingface")
        for name, content in (("fsdp_config.json", fsdp), ("lora_train_meta.json", meta)):
            if content:
                (folder / name).write_text(json.dumps(content, indent=4))
    dist.barrier()


def write_model(folder: Path, base: str, weights) -> None:  # type: ignore[no-untyped-def]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    model.load_state_dict({key: value.bfloat16() for key, value in weights.items()})
    model.save_pretrained(folder)


def write_merged(folder: Path, base: str, weights) -> None:  # type: ignore[no-untyped-def]
    """PEFT's own merge of the adapter as the merger saves it: in bf16."""
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16),
        LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    missing = model.load_state_dict({key: value.bfloat16() for key, value in weights.items()}, strict=False)
    assert not missing.unexpected_keys
    model.save_pretrained(folder / "adapter")
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16), folder / "adapter")
    merged.merge_and_unload().save_pretrained(folder)


if __name__ == "__main__":
    base, out = sys.argv[1], Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    multiprocessing.spawn(main, args=(base, out, os.path.abspath(out / "meeting")), nprocs=RANKS)
