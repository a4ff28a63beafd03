"""Trains a LoRA adapter with PEFT: a worker script for the vLLM environment, run by `training.finetune`, not imported by labkit.

A plain loop, so that it can be read: AdamW, a short warm-up, a cosine down to nothing, gradients clipped at norm 1.
The loss is the mean cross-entropy over the tokens of each conversation's last reply.

The base in bf16 (or 4 bits), the adapter in fp32, so that no small step of a late training is rounded away, products in bf16
(autocast): so on a GPU and on a CPU that multiplies in bf16 (AVX512_BF16, AMX), where a step takes a third to a half of the
processor time that it takes in fp32. On any other CPU bf16 is emulated and slow: all in fp32 there. On a GPU activations are
computed again on the way back (gradient checkpointing): an 8B model's would not fit.
Checked with peft 0.21.2, transformers 5.19.0, torch 2.13.0.
"""

from __future__ import annotations

import importlib.util
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from labkit.workers import transformers_side
from labkit.workers.finetune_job import FinetuneRequest, FinetuneResult, FinetuneSettings
from labkit.workers.side import Refused, answer, tell

WARM_UP = 0.05
CLIP = 1.0


def work(fields: dict[str, Any]) -> dict[str, Any]:
    """A `FinetuneResult` for a `FinetuneRequest`, each as a dict."""
    return asdict(finetune(FinetuneRequest.from_fields(fields)))


def finetune(request: FinetuneRequest) -> FinetuneResult:
    """Train, save the adapter to `request.draft`, and say how it went."""
    settings = request.settings
    if settings.four_bit:
        _require_four_bit()
    tell("progress", done=0, note="importing torch, transformers and PEFT")
    began = time.monotonic()
    import torch

    torch.manual_seed(settings.seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cuda.enable_cudnn_sdp(False)  # its backward made NaN of padded rows (torch 2.11, one H200, rows of 320 tokens)
    tokenizer = transformers_side.load_tokenizer(request.base)
    samples = _samples(tokenizer, request.conversations, settings.max_length)
    model = _model(request.base, settings)
    trainable, total = model.get_nb_trainable_parameters()
    imported = time.monotonic() - began
    losses = list(_train(model, samples, transformers_side.filler(tokenizer), settings))
    model.save_pretrained(request.draft)
    return FinetuneResult(
        losses=losses,
        trainable=trainable,
        total=total,
        tokens=sum(len(sample.reply) for sample in samples),
        longest=max(sample.length for sample in samples),
        device=transformers_side.device_name(),
        products="bfloat16" if _in_bf16() else "float32",
        seconds_before=round(imported, 2),
        versions=_versions(),
    )


def _require_four_bit() -> None:
    """4-bit training needs a library that no list of the kit's brings, and a GPU: said before anything is loaded."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise Refused(
            "four_bit=True needs bitsandbytes, which is not in the vLLM environment.",
            f"Install it there ({sys.executable} -m pip install bitsandbytes, or uv pip install --python {sys.executable} bitsandbytes), "
            "or train with four_bit=False.",
            "SettingError",
        )
    import torch

    if not torch.cuda.is_available():
        raise Refused("four_bit=True needs a GPU.", "Train with four_bit=False on a CPU.", "SettingError")


def _samples(tokenizer: Any, conversations: list[list[dict[str, str]]], max_length: int) -> list[transformers_side.Sample]:
    samples = [transformers_side.encode(tokenizer, conversation) for conversation in conversations]
    long = [(sample.length, number) for number, sample in enumerate(samples) if sample.length > max_length]
    if long:
        length, number = max(long)
        raise Refused(
            f"{len(long)} of {len(samples)} conversations are longer than max_length {max_length}; "
            f"the longest, number {number}, has {length} tokens.",
            f"Give max_length={length} (it costs memory), or leave them out. Cutting them would train on half a question.",
            "SettingError",
        )
    return samples


def _model(base: str, settings: FinetuneSettings) -> Any:
    """The base, frozen, with a fresh adapter on it: lora_B is zero, so training starts from the base's own answers."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    gpu = torch.cuda.is_available()
    options: dict[str, Any] = {}
    if settings.four_bit:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
        )
    tell("progress", done=0, note="loading the model")
    model = transformers_side.load(base, dtype="bfloat16" if _in_bf16() else "float32", **options)
    checkpointing = {"use_reentrant": False}
    if settings.four_bit:
        model = prepare_model_for_kbit_training(model, gradient_checkpointing_kwargs=checkpointing)
    elif gpu:
        model.gradient_checkpointing_enable(checkpointing)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=_linear_names(model) if settings.targets == "all-linear" else settings.targets,
        lora_dropout=settings.dropout,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config).train()
    except ValueError as error:  # PEFT names targets that match nothing
        raise Refused(f"PEFT does not take targets={settings.targets!r}: {error}", 'Use "all-linear" or names like "q_proj".') from error


def _linear_names(model: Any) -> list[str]:
    """What "all-linear" means, in the short names that engines and people read: PEFT itself would list every layer's."""
    import torch

    head = model.get_output_embeddings()
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head]
    return sorted({name.rpartition(".")[2] for name in linear})


def _in_bf16() -> bool:
    """Whether this machine multiplies in bf16."""
    import torch

    if torch.cuda.is_available():
        return True
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _train(model: Any, samples: list[transformers_side.Sample], filler: int, settings: FinetuneSettings) -> Iterator[float]:
    """One loss for each step."""
    import torch

    steps = settings.steps
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: pace(step, steps))
    began = time.monotonic()
    for step, batch in enumerate(batches(len(samples), settings.batch, steps, settings.seed), start=1):
        with transformers_side.memory("Training", "Give a smaller batch or max_length, or four_bit=True."):
            loss = _loss(model, [samples[index] for index in batch], filler)
            loss.backward()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise Refused(f"The loss became {value} at step {step}.", f"Use a smaller learning_rate than {settings.learning_rate}.")
        torch.nn.utils.clip_grad_norm_(weights, CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        left = (time.monotonic() - began) / step * (steps - step)
        tell("progress", done=step, note=f"loss {value:.3f}, about {left:.0f} s left")
        yield value


def _loss(model: Any, samples: list[transformers_side.Sample], filler: int) -> Any:
    import torch
    from torch.nn.functional import cross_entropy

    with torch.autocast("cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16, enabled=_in_bf16()):
        logits, labels = transformers_side.reply_logits(model, samples, filler)
        return cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=transformers_side.IGNORED)


def batches(count: int, size: int, steps: int, seed: int) -> Iterator[list[int]]:
    """`steps` lists of `size` sample numbers: every sample once, in a new order, before any comes again."""
    order, waiting = random.Random(seed), list[int]()
    for _ in range(steps):
        while len(waiting) < size:
            waiting += order.sample(range(count), count)
        yield waiting[:size]
        del waiting[:size]


def pace(step: int, steps: int) -> float:
    """The share of the learning rate at `step` (from 0): up to 1 over the first steps, then half a cosine down towards 0."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "peft")}


if __name__ == "__main__":
    answer(work)
