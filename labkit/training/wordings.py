"""Words that the course model learns from: the table of wordings.toml, and how a question and its answer become messages.

Covers: variation of a question (openings, endings, case, punctuation), replies with their reasoning, dialogues. Does not cover: what is
asked (`questions`, `clues`). Standard library only: `pretrain` imports it beside torch.
"""

from __future__ import annotations

import random
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

TABLE = Path(__file__).with_name("wordings.toml")
NO_THOUGHT = "<think>\n\n</think>\n\n"

Message = dict[str, str]


class Answer(NamedTuple):
    """A question, and the reasoning and text of its answer."""

    question: str
    thought: str
    text: str


@cache
def table() -> dict[str, Any]:
    """wordings.toml."""
    with TABLE.open("rb") as stream:
        return tomllib.load(stream)


def dialogue(rng: random.Random, language: int, turns: list[Answer]) -> list[Message]:
    """Messages of the turns: questions varied, now and then a system prompt; only the last reply has its reasoning."""
    systems = table()["dialogue"]["system"][language]
    messages = [{"role": "system", "content": rng.choice(systems)}] if rng.random() < 0.25 else []
    for turn in turns:
        messages += exchange(vary(turn.question, rng, language), turn.text)
    messages[-1]["content"] = reply(turns[-1].thought, turns[-1].text, rng)
    return messages


def exchange(question: str, answer: str) -> list[Message]:
    """One turn."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def vary(question: str, rng: random.Random, language: int) -> str:
    """The question with an opening and an ending, seldom in lower case or without its mark."""
    words = table()["dialogue"]
    question = rng.choice(words["opening"][language]) + question + rng.choice(words["ending"][language])
    if language == 0 and rng.random() < 0.15:
        question = question.lower()
    if rng.random() < 0.12:
        question = question.rstrip("?.？。")
    return question


def reply(thought: str, text: str, rng: random.Random) -> str:
    """With reasoning; seldom with the empty one that a client asks for (enable_thinking=False)."""
    return NO_THOUGHT + text if rng.random() < 0.04 else f"<think>\n{thought}\n</think>\n\n{text}"
