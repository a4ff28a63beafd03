"""What `lora.comparing` asks of `proof_worker`, and what comes back. Standard library only: both sides import it."""

from __future__ import annotations

from dataclasses import dataclass

from labkit.workers.offline_job import Message, Replies, TaskRequest


@dataclass(frozen=True)
class ProofRequest:
    """Three folders, the conversations that both models are given token by token, and the task that both play."""

    base: str
    adapter: str
    merged: str
    conversations: tuple[tuple[Message, ...], ...]
    task: TaskRequest


@dataclass(frozen=True)
class ModuleKind:
    """All tensors of one kind of module ("q_proj"): how many, how many changed, elements, elements changed.

    `largest` is the largest change of a weight; `ulps` the largest distance of a merged weight from base + delta summed in fp32,
    in units in the last place (0.5 is correct rounding), None where the adapter adds nothing or DoRA rescales.
    """

    kind: str
    tensors: int = 0
    changed: int = 0
    elements: int = 0
    elements_changed: int = 0
    largest: float = 0.0
    ulps: float | None = None


@dataclass(frozen=True)
class Disagreement:
    """Where the first choices of two models differ: the token that was given, both choices, all as text, and by how much the first
    model's logit of its own choice was above that of the other's."""

    given: str
    first: str
    second: str
    margin: float


@dataclass(frozen=True)
class TeacherForced:
    """Two models given the same replies token by token. All over `tokens` positions; logits as the models give them.

    `agreement` is the share where both put the same token first, `largest` and `mean` the absolute difference of logits,
    `divergence` KL(injected || merged) in nats per token. `counts` is the histogram of each token's largest difference, with a bin
    below the first of `edges` and one above the last. `apart` are the widest of the disagreements, `widest_margin` the margin of
    the widest.
    """

    tokens: int
    agreement: float
    largest: float
    mean: float
    divergence: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    widest_margin: float
    apart: tuple[Disagreement, ...]


@dataclass(frozen=True)
class ModelDifference:
    """What is measured of weights and logits: of the models' own type `dtype`, on `device`.

    `forced` is in the models' own type, `exact` the same in fp32 arithmetic (None for models that are too large for it),
    `base_agreement` the agreement of the base without the adapter with the injected one: what it would be had nothing been
    merged. `astray` names tensors that changed though the adapter does not touch them, or that one folder lacks.
    """

    dtype: str
    device: str
    weights: tuple[ModuleKind, ...]
    astray: tuple[str, ...]
    forced: TeacherForced
    exact: TeacherForced | None
    base_agreement: float


@dataclass(frozen=True)
class ProofResult:
    """What was measured, and the replies of the task, injected and merged."""

    measured: ModelDifference
    injected: Replies
    merged: Replies
