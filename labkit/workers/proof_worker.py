"""Holds a merged model against its base with the adapter injected: a worker script for the vLLM environment, run by `lora.comparing`.

Three questions, in this order, one model in memory at a time:
1. the weights (`weight_comparison`): which were changed, by how much, and how far each is from the exact sum in fp32;
2. the same replies, given token by token (`logit_comparison`): do both put the same token first, how far are the logits apart;
3. the task (`offline_worker`): both rounds of the incidents, at each temperature.
Where the model is small the second question is asked again in fp32 arithmetic, which leaves nothing but the rounding of the
merged weights. Not imported by labkit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from labkit.workers import logit_comparison, transformers_side
from labkit.workers.logit_comparison import LogitComparison
from labkit.workers.messages import parse
from labkit.workers.offline_job import Message
from labkit.workers.offline_worker import ReplyCount, play
from labkit.workers.proof_job import ModelDifference, ProofRequest, ProofResult
from labkit.workers.side import answer, tell
from labkit.workers.weight_comparison import WeightComparison


def work(request: dict[str, Any]) -> dict[str, Any]:
    job = parse(ProofRequest, request)
    tell("progress", done=0, note="importing torch, transformers and PEFT")
    weights = WeightComparison(Path(job.base), Path(job.merged))
    weights.compare()
    tell("progress", done=0, note="loading the base")
    tokenizer = transformers_side.load_tokenizer(job.base)
    samples = logit_comparison.fitting(_samples(tokenizer, job.conversations), len(tokenizer))
    small = transformers_side.parameters(job.base) < transformers_side.SMALL
    count = ReplyCount((5 if small else 3) * len(samples) + 4 * len(job.task.temperatures) * len(job.task.dialogues))
    native = LogitComparison(samples, transformers_side.filler(tokenizer), count)
    fp32 = LogitComparison(samples, transformers_side.filler(tokenizer), count) if small else None

    model = transformers_side.load(job.base)
    native.before(model, "the base alone")
    model = transformers_side.attach(model, job.adapter)
    weights.hold_against(model)
    native.first(model, "adapter injected")
    injected = play(model, tokenizer, job.task, count)
    del model
    if fp32:
        fp32.first(transformers_side.attach(transformers_side.load(job.base, dtype="float32"), job.adapter), "adapter injected, fp32")
    model = transformers_side.load(job.merged)
    forced = native.second(model, "merged").result(tokenizer)
    merged = play(model, tokenizer, job.task, count)
    del model
    exact = fp32.second(transformers_side.load(job.merged, dtype="float32"), "merged, fp32").result(tokenizer) if fp32 else None
    measured = ModelDifference(
        dtype=weights.dtype,
        device=transformers_side.device_name(),
        weights=weights.rows(),
        astray=tuple(weights.astray),
        forced=forced,
        exact=exact,
        base_agreement=native.base_agreement,
    )
    return asdict(ProofResult(measured, injected, merged))


def _samples(tokenizer: Any, conversations: Sequence[Sequence[Message]]) -> list[transformers_side.Sample]:
    """One sample for every reply of the assistant's, after what stands before it."""
    return [
        transformers_side.encode(tokenizer, conversation[: number + 1])
        for conversation in conversations
        for number, message in enumerate(conversation)
        if message["role"] == "assistant" and number
    ]


if __name__ == "__main__":
    answer(work)
