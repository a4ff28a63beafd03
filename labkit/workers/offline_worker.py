"""Plays both rounds of incidents through transformers: a worker script for the vLLM environment, run by `evaluation.offline`.

Also imported by `proof_worker`, which plays them with the models it holds anyway. Not imported by labkit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from labkit.chat.reasoning import reasoning_and_answer
from labkit.workers import transformers_side
from labkit.workers.messages import parse
from labkit.workers.offline_job import Message, OfflineReply, OfflineRequest, OfflineResult, Replies, TaskRequest
from labkit.workers.side import answer, tell


def work(request: dict[str, Any]) -> dict[str, Any]:
    job = parse(OfflineRequest, request)
    tell("progress", done=0, note="importing torch and transformers")
    tokenizer = transformers_side.load_tokenizer(job.folder)
    tell("progress", done=0, note="loading the model")
    model = transformers_side.load(job.folder)
    if job.adapter:
        model = transformers_side.attach(model, job.adapter)
    count = ReplyCount(2 * len(job.task.dialogues) * len(job.task.temperatures))
    return asdict(OfflineResult(play(model, tokenizer, job.task, count)))


class ReplyCount:
    """Counts replies over several calls of `play`, and tells."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0

    def tell(self, extra: int, note: str) -> None:
        tell("progress", done=self.done + extra, total=self.total, note=note)


def play(model: Any, tokenizer: Any, task: TaskRequest, count: ReplyCount) -> Replies:
    """For each temperature the replies to every dialogue; the seconds of one are its shares of the two batches that it was in.

    The second round sees the first reply's answer without its reasoning, as a conversation with a server does.
    """
    return tuple(_both_rounds(model, tokenizer, task, temperature, count) for temperature in task.temperatures)


def _both_rounds(model: Any, tokenizer: Any, task: TaskRequest, temperature: float, count: ReplyCount) -> tuple[OfflineReply, ...]:
    if not task.dialogues:
        return ()
    first = _round(model, tokenizer, [dialogue.messages for dialogue in task.dialogues], task, temperature, "round one", count)
    conversations = [
        (
            *dialogue.messages,
            {"role": "assistant", "content": reasoning_and_answer(reply.text).answer},
            {"role": "user", "content": dialogue.second},
        )
        for dialogue, reply in zip(task.dialogues, first, strict=True)
    ]
    second = _round(model, tokenizer, conversations, task, temperature, "round two", count)
    return tuple(
        OfflineReply(one.text, two.text, round(one.seconds + two.seconds, 4), task.max_new_tokens if two.cut else 0)
        for one, two in zip(first, second, strict=True)
    )


def _round(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Sequence[Message]],
    task: TaskRequest,
    temperature: float,
    name: str,
    count: ReplyCount,
) -> list[transformers_side.Generated]:
    sampling = transformers_side.Sampling(temperature, task.max_new_tokens, task.seed)

    def on_token(done: int, tokens: int) -> None:
        count.tell(done, f"temperature {temperature:g}, {name}, {tokens} tokens")

    replies = list(transformers_side.generate(model, tokenizer, conversations, sampling, task.batch, on_token))
    count.done += len(replies)
    return replies


if __name__ == "__main__":
    answer(work)
