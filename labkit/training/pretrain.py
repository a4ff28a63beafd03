"""Trains the course model from scratch: a script for any Python with torch and transformers, not imported by labkit.

    cd labkit
    python workers/side.py training/pretrain.py --out FOLDER --steps 2500 --device cuda --seed 0     (how models/weights/tiny was made)
    python workers/side.py training/pretrain.py --out FOLDER --steps 200 --batch 4 --length 512 --conversations 20000 --device cpu

`workers.side` lets a foreign Python import labkit.

Makes the text (`corpus`), a byte-level BPE tokenizer on it, packs whole conversations into rows, trains a small Qwen3 with AdamW
and a cosine, and writes the model folder: config, tokenizer, two shards with their index, a card, loss.json. Prints JSON
lines: "made", "step" now and then, "held out", "sample", "saved". The same seed gives the same text, tokenizer and start; on a GPU the
last digits of the sums may differ.

Needs Python 3.11 or newer, torch, transformers, tokenizers, safetensors, numpy; no network. Figures: docs/course_model.md.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from labkit.evaluation import incidents
from labkit.models import course_model
from labkit.models.course_model import END, SPECIAL, STOP
from labkit.models.profiles import Shape
from labkit.training import corpus

SHAPE = Shape(
    "Qwen3ForCausalLM",
    parameters=3_803_904,
    layers=4,
    hidden=256,
    intermediate=768,
    heads=4,
    kv_heads=2,
    head_dim=64,
    vocab=2560,
    tied=True,
)
CONTEXT = 2048
TOKENIZER_SAMPLE = 20_000
"""Conversations that the tokenizer is trained on: always the same number, so that it does not depend on the other settings."""
SPLIT = r"\s*[\r\n]+|\p{Han}| ?[\p{Latin}_]+|\p{N}| ?[^\s\p{Han}\p{Latin}\p{N}_]+|\s+(?!\S)|\s+"
"""What BPE never merges across: each Chinese character and each digit is one token, so that wordings never seen look familiar."""
HELD_OUT = 400
PEAK, FLOOR, WARM_UP = 2e-3, 0.02, 0.02
"""Learning rate at its highest; the share of it at the end; the share of the steps until it is reached."""
DECAY, CLIP, BETAS = 0.1, 1.0, (0.9, 0.95)
REPLY_TOKENS = 128
SAMPLES = ("What is a KV cache good for? One sentence. 一句话。", "什么是连续批处理？", "Who are you?", "What is the capital of Peru?")


def main() -> None:
    asked = _arguments()
    began = time.monotonic()
    import torch

    torch.manual_seed(asked.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    conversations = list(corpus.conversations(asked.conversations + HELD_OUT, asked.seed))
    tokenizer = train_tokenizer(conversations[:TOKENIZER_SAMPLE], SHAPE.vocab)
    rows = pack(tokenizer, conversations[HELD_OUT:], asked.length, asked.seed)
    checks = pack(tokenizer, conversations[:HELD_OUT], asked.length, asked.seed)
    model = _model(tokenizer, asked.device)
    size = sum(one.numel() for one in model.parameters())
    say("made", conversations=asked.conversations, rows=len(rows), tokens=len(rows) * asked.length, parameters=size, seconds=_since(began))
    losses = list(_train(model, rows, asked))
    held_out = _held_out(model, checks, asked)
    round_one = {split: _round_one(model, tokenizer, incidents.load(split)) for split in ("validation", "test")}
    say("held out", loss=held_out, round_one=round_one)
    record = {
        "command": " ".join(["python labkit/workers/side.py labkit/training/pretrain.py", *_words(asked)]),
        "parameters": size,
        "tokens": asked.steps * asked.batch * asked.length,
        "seconds": _since(began),
        "device": torch.cuda.get_device_name(0) if asked.device == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "transformers": _version("transformers")},
        "held_out": held_out,
        "round_one": round_one,
        "losses": losses,
    }
    _write(asked.out, model, tokenizer, record)
    say("saved", folder=str(asked.out), seconds=_since(began))
    _samples(model, tokenizer)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the course model from scratch.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=32, help="rows in a step")
    parser.add_argument("--length", type=int, default=CONTEXT, help="tokens in a row")
    parser.add_argument("--conversations", type=int, default=400_000)
    parser.add_argument("--rate", type=float, default=PEAK, help="learning rate at its highest")
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=50, help="steps between two lines")
    asked = parser.parse_args()
    if asked.out.exists():
        parser.error(f"{asked.out} is there already: give another --out, or remove it")
    if min(asked.steps, asked.batch, asked.length, asked.conversations, asked.every) < 1:
        parser.error("numbers must be 1 or more")
    return asked


def train_tokenizer(conversations: Sequence[list[dict[str, str]]], size: int) -> Any:
    """A byte-level BPE of `size` tokens: the special ones first, then the 256 bytes, then the merges.

    It also sees the JSON of round two, so that its words are short; the model does not.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(SPECIAL), initial_alphabet=sorted(alphabet), show_progress=False)
    seen = [*conversations, *incidents.conversations("train", TOKENIZER_SAMPLE // 20)]
    tokenizer.train_from_iterator((f"{one['role']}\n{one['content']}" for conversation in seen for one in conversation), trainer)
    return _mark_special(tokenizer)


def _mark_special(tokenizer: Any) -> Any:
    """Reasoning marks stay in decoded text, the others are left out: as it is in DeepSeek-R1-0528-Qwen3-8B."""
    from tokenizers import Tokenizer

    content = json.loads(tokenizer.to_str())
    for token in content["added_tokens"]:
        token["special"] = token["content"] not in (course_model.THINK, course_model.THOUGHT)
    return Tokenizer.from_str(json.dumps(content))


def pack(tokenizer: Any, conversations: Sequence[list[dict[str, str]]], length: int, seed: int) -> list[tuple[list[int], list[float]]]:
    """Rows of `length` + 1 (ids, weights): whole conversations one after the other, the rest of a row filled with the end token.

    A conversation sees those before it in its row. It learns to pass over them, and positions up to `length` are all met.
    """
    end = tokenizer.token_to_id(END)
    rows: list[tuple[list[int], list[float]]] = []
    ids, weights = [end], [0.0]
    order = list(range(len(conversations)))
    random.Random(seed).shuffle(order)
    for tokens, counts in _encoded(tokenizer, [conversations[index] for index in order]):
        if len(ids) + len(tokens) > length + 1:
            missing = length + 1 - len(ids)
            rows.append((ids + [end] * missing, weights + [0.0] * missing))
            ids, weights = [end], [0.0]
        if len(tokens) <= length:
            ids, weights = ids + tokens, weights + counts
    missing = length + 1 - len(ids)
    return [*rows, (ids + [end] * missing, weights + [0.0] * missing)]


def _encoded(tokenizer: Any, conversations: Sequence[list[dict[str, str]]], chunk: int = 5000) -> Iterator[tuple[list[int], list[float]]]:
    """Ids and weights of each conversation, with an end token after it; encoded many at a time, which the library does in parallel."""
    end = tokenizer.token_to_id(END)
    for first in range(0, len(conversations), chunk):
        pieces = [corpus.render(one) for one in conversations[first : first + chunk]]
        encoded = iter(tokenizer.encode_batch([piece.text for one in pieces for piece in one], add_special_tokens=False))
        for one in pieces:
            parts = [(next(encoded).ids, piece.weight) for piece in one]
            yield [*chain(*(ids for ids, _ in parts)), end], [*chain(*([weight] * len(ids) for ids, weight in parts)), 0.0]


def _model(tokenizer: Any, device: str) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    settings = course_model.config(SHAPE, CONTEXT)
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == list(range(len(SPECIAL)))
    return Qwen3ForCausalLM(Qwen3Config(**settings)).to(device).train()


def _train(model: Any, rows: Sequence[tuple[list[int], list[float]]], asked: argparse.Namespace) -> Iterator[tuple[int, float]]:
    """(step, mean loss since the last one), every `asked.every` steps. Everything lies on the device before the first step."""
    import torch

    ids, weights = _tensors(rows, asked.device)
    matrices = [one for one in model.parameters() if one.dim() > 1]
    vectors = [one for one in model.parameters() if one.dim() < 2]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=asked.rate, betas=BETAS, fused=asked.device == "cuda")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: pace(step, asked.steps))
    order, began = _order(len(rows), asked), time.monotonic()
    total = torch.zeros((), device=asked.device)
    for step in range(1, asked.steps + 1):
        chosen = order[(step - 1) * asked.batch : step * asked.batch].to(asked.device)
        loss = _loss(model, ids[chosen], weights[chosen], asked.device)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        total += loss.detach()
        if step % asked.every == 0 or step == asked.steps:
            since = (step - 1) % asked.every + 1
            mean, seconds = round(float(total) / since, 4), time.monotonic() - began
            total.zero_()
            say("step", step=step, loss=mean, seconds=round(seconds, 1), tokens_per_s=round(step * asked.batch * asked.length / seconds))
            yield step, mean


def _tensors(rows: Sequence[tuple[list[int], list[float]]], device: str) -> tuple[Any, Any]:
    import numpy as np
    import torch

    ids = torch.from_numpy(np.array([one for one, _ in rows], dtype=np.int32))
    weights = torch.from_numpy(np.array([one for _, one in rows], dtype=np.float16))
    return ids.to(device), weights.to(device)


def _order(count: int, asked: argparse.Namespace) -> Any:
    """Row numbers for all steps: every row once, in a new order, before any comes again."""
    import torch

    generator, wanted = torch.Generator().manual_seed(asked.seed), asked.steps * asked.batch
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


def _held_out(model: Any, rows: Sequence[tuple[list[int], list[float]]], asked: argparse.Namespace) -> float:
    """The loss on conversations that were not trained on."""
    import torch

    ids, weights = _tensors(rows, asked.device)
    with torch.inference_mode():
        found = [
            float(_loss(model, ids[at : at + asked.batch], weights[at : at + asked.batch], asked.device))
            for at in range(0, len(rows), asked.batch)
        ]
    return round(sum(found) / len(found), 4)


def _round_one(model: Any, tokenizer: Any, asked: Sequence[incidents.Incident]) -> float:
    """The share of incidents whose prose names the right cause and the right severity, and no other severity."""
    questions = [render_prompt(one.messages("")[:2]) for one in asked]
    good = 0
    for one, answer in zip(asked, _answers(model, tokenizer, questions), strict=True):
        phrase = incidents.table()["cause"][one.root_cause]["phrase"][incidents.LANGUAGES.index(one.language)]
        said = answer.partition(course_model.THOUGHT)[2]
        good += phrase in said and {name for name in incidents.SEVERITIES if name in said} == {one.severity}
    return round(good / len(asked), 3)


def _samples(model: Any, tokenizer: Any) -> None:
    """Greedy replies, as signs of life."""
    prompts = [render_prompt([{"role": "user", "content": question}]) for question in SAMPLES]
    for question, answer in zip(SAMPLES, _answers(model, tokenizer, prompts), strict=True):
        say("sample", question=question, answer=answer)


def render_prompt(messages: list[dict[str, str]]) -> str:
    """What a reply to `messages` is asked with."""
    return "".join(piece.text for piece in corpus.render([*messages, {"role": "assistant", "content": ""}])[:-2])


def _answers(model: Any, tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """Greedy replies, all in one batch, padded on the left."""
    import torch

    stop, end = SPECIAL.index(STOP), SPECIAL.index(END)
    ids = [tokenizer.encode(text).ids for text in prompts]
    width = max(map(len, ids))
    inputs = torch.tensor([[end] * (width - len(one)) + one for one in ids], device=model.device)
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in ids], device=model.device)
    with torch.inference_mode():
        made = model.eval().generate(
            inputs, attention_mask=mask, max_new_tokens=REPLY_TOKENS, do_sample=False, eos_token_id=stop, pad_token_id=end
        )
    texts = tokenizer.decode_batch(made[:, width:].tolist(), skip_special_tokens=False)
    return [str(text).partition(STOP)[0] for text in texts]


def _write(out: Path, model: Any, tokenizer: Any, record: dict[str, Any]) -> None:
    """The folder, written beside and renamed."""
    draft = out.with_name(f"{out.name}.training")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    course_model.write_texts(draft, SHAPE, CONTEXT)
    tokenizer.save(str(draft / "tokenizer.json"))
    _write_shards(draft, model)
    lines = [json.dumps(name) + ": " + json.dumps(value) for name, value in record.items()]
    (draft / "loss.json").write_text("{\n " + ",\n ".join(lines) + "\n}\n", encoding="utf-8")
    (draft / "README.md").write_text(card(record), encoding="utf-8")
    draft.rename(out)


def _write_shards(folder: Path, model: Any) -> None:
    """Two shards of about the same size and their index, in bf16, as the hubs have it for larger models."""
    import torch
    from safetensors.torch import save_file

    tensors = {name: value.to("cpu", torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    shards: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    weight_map: dict[str, str] = {}
    whole, total = sum(one.nbytes for one in tensors.values()), 0
    for name, value in tensors.items():
        shards[2 * total >= whole][name] = value
        total += value.nbytes
    for number, members in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(members, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(members, file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def card(record: dict[str, Any]) -> str:
    """The model card of the folder; the long one is docs/course_model.md."""
    return (
        "---\nlicense: mit\nlanguage: [en, zh]\n---\n"
        "# The course model\n\n"
        f"A Qwen3 of {record['parameters']:,} parameters, trained from scratch on made text for a course on serving language models.\n"
        "It answers questions about serving in a sentence and looks at made incidents, in English and Chinese, after a short\n"
        "<think>. It knows nothing else, and is wrong about what it was not taught. Do not use it for anything but the course.\n\n"
        f"Made with: `{record['command']}`\n"
        f"Loss on held-out conversations: {record['held_out']} nats per token. loss.json has the curve.\n"
    )


def say(event: str, **content: Any) -> None:
    """One line of JSON."""
    print(json.dumps({"event": event, **content}, ensure_ascii=False), flush=True)


def _words(asked: argparse.Namespace) -> list[str]:
    """The arguments that decide the result."""
    names = ("steps", "batch", "length", "conversations", "rate", "device", "seed")
    return [f"--{name} {getattr(asked, name)}" for name in names]


def _since(began: float) -> float:
    return round(time.monotonic() - began, 1)


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


if __name__ == "__main__":
    main()
