"""Plays both rounds of incidents through transformers: a worker script for the vLLM environment, run by `offline`.

Also imported, by path, by `lora/compare_worker`, which plays them with the models it holds anyway. Not imported by labkit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from labkit.chat.reasoning import reasoning_and_answer
from labkit.workers import transformers_side
from labkit.workers.side import answer, tell

Row = tuple[str, str, float, int]
"""First reply, second reply, seconds, and the tokens after which the second was cut off (0: it ended by itself): `triage.Reply`."""


def work(request: dict[str, Any]) -> dict[str, Any]:
    """The replies of every variant of the request: {"replies": [[[first, second, seconds, limit], ...], ...]}."""
    tell("progress", done=0, note="importing torch and transformers")
    tokenizer = transformers_side.load_tokenizer(request["folder"])
    tell("progress", done=0, note="loading the model")
    model = transformers_side.load(request["folder"])
    if request["adapter"]:
        model = transformers_side.attach(model, request["adapter"])
    told = Told(2 * len(request["dialogues"]) * len(request["temperatures"]))
    return {"replies": [play(model, tokenizer, request, temperature, told) for temperature in request["temperatures"]]}


class Told:
    """Counts replies over several calls of `play`, and tells."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0

    def now(self, extra: int, note: str) -> None:
        tell("progress", done=self.done + extra, total=self.total, note=note)


def play(model: Any, tokenizer: Any, request: dict[str, Any], temperature: float, told: Told) -> list[Row]:
    """The row of every dialogue; its seconds are the shares of the two batches that it was in.

    A dialogue is {"messages": those of round one, "second": the user's words of round two}. The second round sees the first
    reply's answer without its reasoning, as a conversation with a server does.
    """
    first = _round(model, tokenizer, [one["messages"] for one in request["dialogues"]], request, temperature, "round one", told)
    asked = [
        [
            *one["messages"],
            {"role": "assistant", "content": reasoning_and_answer(reply.text).answer},
            {"role": "user", "content": one["second"]},
        ]
        for one, reply in zip(request["dialogues"], first, strict=True)
    ]
    second = _round(model, tokenizer, asked, request, temperature, "round two", told)
    most = request["max_new_tokens"]
    return [
        (one.text, two.text, round(one.seconds + two.seconds, 4), most if two.cut else 0) for one, two in zip(first, second, strict=True)
    ]


def _round(
    model: Any, tokenizer: Any, asked: Sequence[Any], request: dict[str, Any], temperature: float, name: str, told: Told
) -> list[transformers_side.Generated]:
    sampling = transformers_side.Sampling(temperature, request["max_new_tokens"], request["seed"])
    where = f"temperature {temperature:g}, {name}"
    replies = list(
        transformers_side.generate(
            model, tokenizer, asked, sampling, request["batch"], lambda done, tokens: told.now(done, f"{where}, {tokens} tokens")
        )
    )
    told.done += len(replies)
    return replies


if __name__ == "__main__":
    answer(work)
