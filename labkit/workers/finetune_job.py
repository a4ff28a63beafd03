"""What `training.finetune` asks of `finetune_worker`, and what comes back: the types that both sides import. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FinetuneSettings:
    """`batch` is conversations a step, `max_length` tokens; `targets` are module names or "all-linear"."""

    steps: int
    batch: int
    learning_rate: float
    rank: int
    alpha: float
    targets: str | list[str]
    dropout: float
    max_length: int
    four_bit: bool
    seed: int


@dataclass(frozen=True)
class FinetuneRequest:
    """Train on `conversations` (lists of messages with role and content) an adapter for the folder `base`; it goes to folder `draft`."""

    base: str
    draft: str
    conversations: list[list[dict[str, str]]]
    settings: FinetuneSettings

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> FinetuneRequest:
        """The request again, from the dict that `asdict` made of it."""
        return cls(**{**fields, "settings": FinetuneSettings(**fields["settings"])})


@dataclass(frozen=True)
class FinetuneResult:
    """`losses` has one number a step, in nats per token; `trainable` and `total` are parameters.

    `tokens` are those of all replies once, `longest` those of the longest conversation. `products` is the type in which matrices
    were multiplied, `seconds_before` what passed until the first step, `versions` has one line for each library.
    """

    losses: list[float]
    trainable: int
    total: int
    tokens: int
    longest: int
    device: str
    products: str
    seconds_before: float
    versions: dict[str, str]
