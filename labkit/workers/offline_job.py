"""What `evaluation.offline` asks of `offline_worker`, and what comes back. Standard library only: both sides import it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

Message = dict[str, str]


@dataclass(frozen=True)
class Dialogue:
    """An incident as it is played: the messages of round one, and the user's words of round two."""

    messages: tuple[Message, ...]
    second: str


@dataclass(frozen=True)
class TaskRequest:
    """Both rounds of every dialogue at each temperature, with at most `max_new_tokens` per reply, `batch` dialogues at a time."""

    dialogues: tuple[Dialogue, ...]
    temperatures: tuple[float, ...]
    max_new_tokens: int
    batch: int
    seed: int


@dataclass(frozen=True)
class OfflineRequest:
    """Play `task` with the model in `folder`, with the PEFT adapter of the folder `adapter` injected unless that is ""."""

    folder: str
    adapter: str
    task: TaskRequest


class OfflineReply(NamedTuple):
    """What a model said to one incident, reasoning included, and its share of the seconds of its batches."""

    first: str
    second: str
    seconds: float = 0.0
    limit: int = 0
    """Tokens after which `second` was cut off; 0: it ended by itself."""


Replies = tuple[tuple[OfflineReply, ...], ...]
"""For each temperature a reply to each dialogue."""


@dataclass(frozen=True)
class OfflineResult:
    replies: Replies
