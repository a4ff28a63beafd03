"""The text that the course model learns from: made conversations, English and Chinese, the same for the same seed.

What it holds, in the shares of `KINDS`: questions and answers about serving (wordings.toml, 316 of them, each asked in many ways),
conversations with follow-up questions, things it does not know and says so, incidents with the prose of round one and prose
about them, single clues ("what does ENOSPC mean?"), the playbook's short names, a little JSON for other tasks, plain text.
What it does not hold: the JSON of round two. That is left to the adapter, so that there is something to see.

`render` writes a conversation with the marks of ChatML, exactly as the chat template does, in pieces: those that are learnt
and those that only stand before them. Only the last reply is learnt; earlier ones stand without their reasoning, as a
client sends them.

Covers: the mixture, ChatML. Does not cover: the conversations of each kind (`questions`, `clues`), tokens (`tokens`), training
(`pretrain`). Used by `pretrain`, beside torch. Standard library only.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..evaluation import incidents
from ..evaluation.incidents import Incident
from . import clues, questions
from .wordings import NO_THOUGHT, Message

HEARD_WEIGHT = 0.1
"""What users and system prompts say is learnt a little too: a model that could have written a log line knows it better."""
KINDS: tuple[tuple[Callable[[random.Random, Iterator[Incident]], list[Message]], float], ...] = (
    (questions.question, 0.24),
    (questions.both_languages, 0.05),
    (questions.talk, 0.13),
    (clues.first_round, 0.18),
    (clues.second_turn, 0.11),
    (clues.clue, 0.18),
    (clues.glossary, 0.05),
    (clues.json_task, 0.05),
    (questions.plain_text, 0.01),
)
"""What is made, and how often."""


class Piece(NamedTuple):
    """A piece of text and how much its tokens count in the loss: 1 for what is learnt, 0 for what only stands before it."""

    text: str
    weight: float


def conversations(count: int, seed: int = 0) -> Iterator[list[Message]]:
    """`count` conversations; the last message is the assistant's, with its reasoning. A single message is plain text."""
    rng = random.Random(f"corpus/{seed}")
    kinds, shares = zip(*KINDS, strict=True)
    stream = incidents.stream("train", seed + 1)
    for _ in range(count):
        yield rng.choices(kinds, shares)[0](rng, stream)


def render(messages: list[Message]) -> list[Piece]:
    """The conversation as ChatML, in pieces. An empty reasoning, which a client asks for, is not learnt."""
    if len(messages) == 1:
        return [Piece(messages[0]["content"] + "<|endoftext|>", 1.0)]
    before = [piece for message in messages[:-1] for piece in _turn(message)]
    reply = messages[-1]["content"]
    given = NO_THOUGHT if reply.startswith(NO_THOUGHT) else ""
    return [*before, Piece(f"<|im_start|>assistant\n{given}", 0.0), Piece(reply.removeprefix(given) + "<|im_end|>", 1.0), Piece("\n", 0.0)]


def _turn(message: Message) -> list[Piece]:
    weight = 0.0 if message["role"] == "assistant" else HEARD_WEIGHT
    return [Piece(f"<|im_start|>{message['role']}\n", 0.0), Piece(message["content"], weight), Piece("<|im_end|>\n", 0.0)]
