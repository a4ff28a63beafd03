"""What a benchmark sends: how many requests of which lengths at which concurrency, checked before anything is sent.

Does not cover: sending it (`sweeps`). Used by notebooks 03, 04 and 06 through `sweep` and `measure`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ..common.errors import SettingError

MIN_REQUESTS = 16

WAVES = 4
"""Requests per slot where nothing else is said: fewer, and start and end weigh more than the middle."""


def request_counts(levels: Sequence[int], requests: int | Sequence[int] | None) -> list[int]:
    """Requests of each level: `requests`, one number for all or one for each; by default `WAVES` per slot, `MIN_REQUESTS` at least."""
    if requests is None:
        return [max(MIN_REQUESTS, WAVES * level) for level in levels]
    return [requests] * len(levels) if isinstance(requests, int) else list(requests)


@dataclass(frozen=True)
class Load:
    """What is sent: `counts` requests at each concurrency of `levels`. Lengths are tokens, `spread` a share of them to either side."""

    levels: list[int]
    input_len: int
    output_len: int
    counts: list[int]
    spread: float
    seed: int

    def require_sensible(self) -> None:
        """Raise `SettingError` for what cannot be."""
        if not self.levels or min(self.levels) < 1:
            raise SettingError(f"levels is {self.levels}.", "Give at least one concurrency, 1 or more: levels=(1, 4, 16).")
        if len(self.counts) != len(self.levels):
            raise SettingError(
                f"{len(self.counts)} numbers of requests for {len(self.levels)} levels.", "Give one number, or one for each level."
            )
        if min(self.input_len, self.output_len, *self.counts) < 1:
            raise SettingError(
                f"input_len {self.input_len}, output_len {self.output_len}, requests {self.counts}: each must be at least 1.",
                "Give positive numbers.",
            )
        if not 0 <= self.spread < 1 or min(self.input_len, self.output_len) * (1 - self.spread) < 1:
            raise SettingError(
                f"spread {self.spread} with input_len {self.input_len}, output_len {self.output_len}: some would have no token.",
                "Give 0 for equal lengths, or less than 1: 0.5 is half to one and a half times.",
            )

    def seeds(self) -> list[int]:
        """One for the warm-up and one for each level, all different."""
        return random.Random(self.seed).sample(range(2**31), len(self.levels) + 1)
