"""A merged model held against its base with the adapter injected: weights, logits, task, and why they differ.

    compare(base, adapter, merged, conversations, incidents=...)  -> Proof: tables, figure, an explanation in words

Injected means PEFT's way: the base as it is, and what the adapter adds computed anew in every forward pass, in fp32. (An
engine that serves the adapter computes it in the base's type.) Merged means the sum, rounded to the base's type once. The
two are the same function and not the same numbers, so bit equality of logits is not to be had, and not what is asked.

Covers: proof that a merge took and did no harm. Does not cover: which of two models is better at the task (two scores by
`evaluation.offline.score`, side by side in `evaluation.table`), the merge itself (`merging`). Used by notebook 06 as `labkit.lora.compare`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.errors import SettingError
from ..evaluation import offline, scores
from ..models.adapter import Adapter
from ..models.folders import require_model
from ..workers import launch
from ..workers.messages import parse
from ..workers.proof_job import ProofRequest, ProofResult
from .proof import Proof

if TYPE_CHECKING:
    from ..evaluation.incidents import Incident
    from ..evaluation.scores import Score


SCRIPT = launch.SCRIPTS / "proof_worker.py"


def compare(
    base: str | Path,
    adapter: str | Path,
    merged: str | Path,
    conversations: Sequence[Sequence[Mapping[str, str]]],
    *,
    incidents: Sequence[Incident] | None = None,
    temperatures: Sequence[float] = (0.0, 0.7),
    max_new_tokens: int | None = None,
    batch: int = 32,
    seed: int = 0,
) -> Proof:
    """Hold `merged` against `base` with `adapter` injected, in the models' own type, on the GPU if there is one; shows progress.

    Every reply of the assistant's in `conversations` is given to both token by token (4 GiB of logits at most are kept; a line
    says when that leaves some out). `incidents`, if given, are played in both rounds at each of `temperatures` with at most
    `max_new_tokens` per reply (`evaluation.offline.replies`). One model is in memory at a time. Reads, writes nothing.

    Raises `LabError` children: before anything starts for folders and arguments that cannot be; later when the merge changed
    nothing or the folders are not of one model. A merge that did harm is no error: the result is false and `lines` says what.
    """
    folders = {"base": require_model(base), "adapter": Adapter.read(adapter).folder, "merged": require_model(merged)}
    if not any(message["role"] == "assistant" for messages in conversations for message in messages[1:]):
        raise SettingError(
            "No conversation has a reply to compare.", 'Give conversations such as incidents.conversations("validation", 32, 0).'
        )
    began = time.monotonic()
    request = ProofRequest(
        **{name: str(folder) for name, folder in folders.items()},
        conversations=tuple(tuple(dict(message) for message in messages) for messages in conversations),
        task=offline.task(folders["base"], incidents or (), temperatures, max_new_tokens, batch, seed),
    )
    title = f"Comparing {folders['merged'].name}"
    result = parse(ProofResult, launch.run(SCRIPT, asdict(request), title=title, unit="replies", environment=offline.PATIENT))
    parts: dict[str, Any] = {**vars(result.measured), **folders, "scores": _scored(incidents or (), temperatures, result)}
    return Proof(**parts, seconds=round(time.monotonic() - began, 1))


def _scored(incidents: Sequence[Incident], temperatures: Sequence[float], result: ProofResult) -> tuple[Score, ...]:
    if not incidents:
        return ()
    return tuple(
        scores.from_replies(f"{way}, temperature {temperature:g}", incidents, replies)
        for temperature, *both in zip(temperatures, result.injected, result.merged, strict=True)
        for way, replies in zip(("injected", "merged"), both, strict=True)
    )
