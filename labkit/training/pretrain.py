"""Trains the course model from scratch: a script for any Python with torch and transformers, not imported by labkit.

    cd labkit
    python workers/side.py training/pretrain.py --out FOLDER --steps 2500 --device cuda --seed 0     (how models/weights/tiny was made)
    python workers/side.py training/pretrain.py --out FOLDER --steps 200 --batch 4 --length 512 --conversations 20000 --device cpu

`workers.side` lets a foreign Python import labkit.

Makes the text (`corpus`), a byte-level BPE tokenizer on it and rows of whole conversations (`tokens`), trains a small Qwen3 with
AdamW and a cosine, and writes the model folder (`pretrained`). Prints JSON lines: "made", "step" now and then, "held out",
"sample", "saved". The same seed gives the same text, tokenizer and start; on a GPU the last digits of the sums may differ.

Covers: the training itself, the loss held out, replies as signs of life. Does not cover: adapters (`finetune`).
Needs Python 3.11 or newer, torch, transformers, tokenizers, safetensors, numpy; no network. Figures: docs/course_model.md.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from labkit.evaluation import incidents
from labkit.evaluation.incidents import Incident
from labkit.models import course_model
from labkit.models.course_model import END, SPECIAL, STOP
from labkit.models.profiles import profile
from labkit.training import corpus, pretrained, tokens
from labkit.training.tokens import Row
from labkit.training.wordings import Message

COURSE = profile("tiny")
"""What is trained: its shape and context."""
HELD_OUT = 400
PEAK, FLOOR, WARM_UP = 2e-3, 0.02, 0.02
"""Learning rate at its highest; the share of it at the end; the share of the steps until it is reached."""
DECAY, CLIP, BETAS = 0.1, 1.0, (0.9, 0.95)
REPLY_TOKENS = 128
SAMPLES = ("What is a KV cache good for? One sentence. 一句话。", "什么是连续批处理？", "Who are you?", "What is the capital of Peru?")


def main() -> None:
    arguments = _arguments()
    began = time.monotonic()
    import torch

    torch.manual_seed(arguments.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    conversations = list(corpus.conversations(arguments.conversations + HELD_OUT, arguments.seed))
    tokenizer = tokens.train_tokenizer(conversations[: tokens.TOKENIZER_SAMPLE], COURSE.shape.vocab)
    rows = tokens.pack(tokenizer, conversations[HELD_OUT:], arguments.length, arguments.seed)
    checks = tokens.pack(tokenizer, conversations[:HELD_OUT], arguments.length, arguments.seed)
    model = _model(tokenizer, arguments.device)
    made = {"conversations": arguments.conversations, "rows": len(rows), "tokens": len(rows) * arguments.length}
    size = sum(weight.numel() for weight in model.parameters())
    say("made", **made, parameters=size, seconds=_since(began))
    losses = list(_train(model, rows, arguments))
    held_out = _held_out(model, checks, arguments)
    round_one = {split: _round_one(model, tokenizer, incidents.load(split)) for split in ("validation", "test")}
    say("held out", loss=held_out, round_one=round_one)
    record = {
        "command": " ".join(["python labkit/workers/side.py labkit/training/pretrain.py", *_settings(arguments)]),
        "parameters": size,
        "tokens": arguments.steps * arguments.batch * arguments.length,
        "seconds": _since(began),
        "device": torch.cuda.get_device_name(0) if arguments.device == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "transformers": version("transformers")},
        "held_out": held_out,
        "round_one": round_one,
        "losses": losses,
    }
    pretrained.write(arguments.out, COURSE, tokenizer, _tensors(model), record)
    say("saved", folder=str(arguments.out), seconds=_since(began))
    _samples(model, tokenizer)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the course model from scratch.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=32, help="rows in a step")
    parser.add_argument("--length", type=int, default=COURSE.context, help="tokens in a row")
    parser.add_argument("--conversations", type=int, default=400_000)
    parser.add_argument("--rate", type=float, default=PEAK, help="learning rate at its highest")
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=50, help="steps between two lines")
    arguments = parser.parse_args()
    if arguments.out.exists():
        parser.error(f"{arguments.out} is there already: give another --out, or remove it")
    if min(arguments.steps, arguments.batch, arguments.length, arguments.conversations, arguments.every) < 1:
        parser.error("numbers must be 1 or more")
    return arguments


def _model(tokenizer: Any, device: str) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = course_model.config(COURSE.shape, COURSE.context)
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == list(range(len(SPECIAL)))
    return Qwen3ForCausalLM(Qwen3Config(**config)).to(device).train()


def _train(model: Any, rows: Sequence[Row], arguments: argparse.Namespace) -> Iterator[tuple[int, float]]:
    """(step, mean loss since the last one), every `arguments.every` steps. Everything lies on the device before the first step."""
    import torch

    ids, weights = _on_device(rows, arguments.device)
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    vectors = [weight for weight in model.parameters() if weight.dim() < 2]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=arguments.rate, betas=BETAS, fused=arguments.device == "cuda")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: pace(step, arguments.steps))
    order, began = _order(len(rows), arguments), time.monotonic()
    total = torch.zeros((), device=arguments.device)
    for step in range(1, arguments.steps + 1):
        batch = order[(step - 1) * arguments.batch : step * arguments.batch].to(arguments.device)
        loss = _loss(model, ids[batch], weights[batch], arguments.device)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        total += loss.detach()
        if step % arguments.every == 0 or step == arguments.steps:
            since = (step - 1) % arguments.every + 1
            mean, seconds = round(float(total) / since, 4), time.monotonic() - began
            total.zero_()
            rate = round(step * arguments.batch * arguments.length / seconds)
            say("step", step=step, loss=mean, seconds=round(seconds, 1), tokens_per_s=rate)
            yield step, mean


def _on_device(rows: Sequence[Row], device: str) -> tuple[Any, Any]:
    """(ids, weights), each of shape (rows, tokens in a row + 1)."""
    import numpy as np
    import torch

    ids = torch.from_numpy(np.array([ids for ids, _ in rows], dtype=np.int32))
    weights = torch.from_numpy(np.array([weights for _, weights in rows], dtype=np.float16))
    return ids.to(device), weights.to(device)


def _order(count: int, arguments: argparse.Namespace) -> Any:
    """Row numbers for all steps: every row once, in a new order, before any comes again."""
    import torch

    generator, wanted = torch.Generator().manual_seed(arguments.seed), arguments.steps * arguments.batch
    return torch.cat([torch.randperm(count, generator=generator) for _ in range(math.ceil(wanted / count))])[:wanted]


def _loss(model: Any, ids: Any, weights: Any, device: str) -> Any:
    """Mean cross-entropy in nats per token, weighted."""
    import torch
    from torch.nn.functional import cross_entropy

    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        logits = model(input_ids=ids[:, :-1].long(), use_cache=False).logits
    each = cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].long().flatten(), reduction="none")
    counts = weights[:, 1:].float().flatten()
    return (each * counts).sum() / counts.sum()


def pace(step: int, steps: int) -> float:
    """The share of the learning rate at `step` (from 0): up over the first steps, then half a cosine down to `FLOOR`."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _held_out(model: Any, rows: Sequence[Row], arguments: argparse.Namespace) -> float:
    """The loss on conversations that were not trained on."""
    import torch

    ids, weights = _on_device(rows, arguments.device)
    batches = [slice(start, start + arguments.batch) for start in range(0, len(rows), arguments.batch)]
    with torch.inference_mode():
        losses = [float(_loss(model, ids[batch], weights[batch], arguments.device)) for batch in batches]
    return round(sum(losses) / len(losses), 4)


def _round_one(model: Any, tokenizer: Any, known: Sequence[Incident]) -> float:
    """The share of incidents whose prose names the right cause and the right severity, and no other severity."""
    prompts = [render_prompt(incident.messages("")[:2]) for incident in known]
    hits = 0
    for incident, reply in zip(known, _replies(model, tokenizer, prompts), strict=True):
        phrase = incidents.table()["cause"][incident.root_cause]["phrase"][incidents.LANGUAGES.index(incident.language)]
        answer = reply.partition(course_model.THOUGHT)[2]
        hits += phrase in answer and {name for name in incidents.SEVERITIES if name in answer} == {incident.severity}
    return round(hits / len(known), 3)


def _samples(model: Any, tokenizer: Any) -> None:
    """Greedy replies, as signs of life."""
    prompts = [render_prompt([{"role": "user", "content": question}]) for question in SAMPLES]
    for question, reply in zip(SAMPLES, _replies(model, tokenizer, prompts), strict=True):
        say("sample", question=question, answer=reply)


def render_prompt(messages: list[Message]) -> str:
    """What a reply to `messages` is asked with."""
    return "".join(piece.text for piece in corpus.render([*messages, {"role": "assistant", "content": ""}])[:-2])


def _replies(model: Any, tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """Greedy replies, all in one batch, padded on the left."""
    import torch

    stop, end = SPECIAL.index(STOP), SPECIAL.index(END)
    ids = [tokenizer.encode(text).ids for text in prompts]
    width = max(map(len, ids))
    inputs = torch.tensor([[end] * (width - len(row)) + row for row in ids], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=model.device)
    with torch.inference_mode():
        generated = model.eval().generate(
            inputs, attention_mask=mask, max_new_tokens=REPLY_TOKENS, do_sample=False, eos_token_id=stop, pad_token_id=end
        )
    texts = tokenizer.decode_batch(generated[:, width:].tolist(), skip_special_tokens=False)
    return [str(text).partition(STOP)[0] for text in texts]


def _tensors(model: Any) -> dict[str, Any]:
    """The weights in bf16, on the CPU; a tied head is left out, as it is the embedding."""
    import torch

    tensors = {name: value.to("cpu", torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    return tensors


def say(event: str, **content: Any) -> None:
    """One line of JSON."""
    print(json.dumps({"event": event, **content}, ensure_ascii=False), flush=True)


def _settings(arguments: argparse.Namespace) -> list[str]:
    """The arguments that decide the result."""
    names = ("steps", "batch", "length", "conversations", "rate", "device", "seed")
    return [f"--{name} {getattr(arguments, name)}" for name in names]


def _since(began: float) -> float:
    return round(time.monotonic() - began, 1)


if __name__ == "__main__":
    main()
