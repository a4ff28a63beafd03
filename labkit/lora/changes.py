"""What a merge does to the tensors of a base, as a plan: one change for each tensor, and what is wrong with the whole.

Covers: the plan's parts. Does not cover: making it (`pairing`), carrying it out (`workers.merge_arithmetic`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..models.headers import Tensor
from .findings import Finding


@dataclass(frozen=True)
class Change:
    """What becomes of one base tensor: start (+ scale x B @ A), rescaled row by row where there is a magnitude.

    `start` is the base's own tensor, or one that the adapter brings whole. `transposed`: the delta is (B @ A) transposed.
    `rounds`: the delta is rounded to the base's type before it is added, as PEFT does with embeddings.
    """

    module: str
    target: Tensor
    start: Tensor
    a: Tensor | None = None
    b: Tensor | None = None
    magnitude: Tensor | None = None
    scale: float = 0.0
    transposed: bool = False
    rounds: bool = False

    @property
    def whole(self) -> bool:
        """Whether its rows cannot be done one after another."""
        return self.magnitude is not None and self.transposed


@dataclass
class Pairing:
    """The changes that an adapter makes to a base, and what is wrong with them."""

    changes: list[Change] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
