"""Two models given the same replies token by token (teacher forcing): the second question of `proof_worker`.

Do both put the same token first, and how far are the logits apart? Runs in the vLLM environment, not imported by labkit.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from labkit.workers import transformers_side
from labkit.workers.offline_worker import ReplyCount
from labkit.workers.proof_job import Disagreement, TeacherForced
from labkit.workers.side import tell
from labkit.workers.transformers_side import Sample

BATCH = 8
CHUNK = 512
"""Tokens whose logits are held against each other at once: the vocabulary of a large model makes each 0.6 MB."""
MAX_KEPT_BYTES = 4 * 2**30
"""Bytes of logits that are kept from one model to the next."""
BINS = tuple(10 ** (exponent / 4) for exponent in range(-24, 9))
"""Edges for the histogram of logit differences: four to a decade from 1e-6 to 100."""
MAX_SHOWN = 10


def fitting(samples: list[Sample], vocabulary: int) -> list[Sample]:
    """As many as their logits may be kept of, in order; says so when some are left out."""
    ends = list(accumulate(4 * vocabulary * len(sample.reply) for sample in samples))
    count = bisect(ends, MAX_KEPT_BYTES)
    if count < len(samples):
        tell("line", text=f"Of {len(samples)} replies the first {count} are compared token by token: more logits would not fit the memory.")
    return samples[:count]


class LogitComparison:
    """The logits of the model that is asked first are kept (on the CPU, in its own type) for the second.

    They are held against each other where the second model is: a large vocabulary makes that slow on a processor.
    """

    def __init__(self, samples: list[Sample], filling: int, count: ReplyCount) -> None:
        self.samples, self.filling, self.count = samples, filling, count
        self.base_tops: list[Any] = []
        self.first_logits: list[Any] = []
        self.base_agreement = 0.0

    def before(self, model: Any, name: str) -> None:
        """The base's own first choices: what agreement is without the adapter."""
        self.base_tops = [logits.argmax(-1).cpu() for logits, _ in self._logits(model, name)]

    def first(self, model: Any, name: str) -> None:
        self.first_logits = [logits.cpu() for logits, _ in self._logits(model, name)]
        if self.base_tops:
            same = [int((logits.argmax(-1) == top).sum()) for logits, top in zip(self.first_logits, self.base_tops, strict=True)]
            self.base_agreement = sum(same) / sum(len(top) for top in self.base_tops)

    def second(self, model: Any, name: str) -> LogitDifference:
        difference = LogitDifference()
        for first, (logits, labels) in zip(self.first_logits, self._logits(model, name), strict=True):
            for part in zip(first.split(CHUNK), logits.split(CHUNK), labels.split(CHUNK), strict=True):
                with transformers_side.memory("Comparing logits"):
                    difference.add(*(tensor.to(logits.device) for tensor in part))
        return difference

    def _logits(self, model: Any, name: str) -> Iterator[tuple[Any, Any]]:
        """(logits, labels) of a batch's reply tokens: shapes (tokens, vocabulary) and (tokens)."""
        import torch

        for start in range(0, len(self.samples), BATCH):
            part = self.samples[start : start + BATCH]
            self.count.tell(0, f"{name}: replies given token by token")
            with torch.inference_mode(), transformers_side.memory("Comparing logits"):
                logits, labels = transformers_side.reply_logits(model, part, self.filling)
                chosen = labels != transformers_side.IGNORED
                reply = logits[chosen], labels[chosen]
            self.count.done += len(part)
            yield reply


class LogitDifference:
    """Sums over the reply tokens of two models' logits."""

    def __init__(self) -> None:
        self.tokens = self.same = 0
        self.largest = self.mean = self.divergence = 0.0
        self.histogram = [0] * (len(BINS) + 1)
        self.apart: list[tuple[float, tuple[int, int, int]]] = []
        """Where the first choices differ: the first model's margin between them, the token that was given and both choices."""

    def add(self, first: Any, second: Any, labels: Any) -> None:
        import torch

        first, second = first.float(), second.float()
        distance = (first - second).abs()
        self.tokens += len(labels)
        self.largest = max(self.largest, float(distance.max()))
        self.mean += float(distance.mean(-1).sum())
        ours, theirs = first.log_softmax(-1), second.log_softmax(-1)
        self.divergence += float((ours.exp() * (ours - theirs)).sum())
        bins = torch.bucketize(distance.amax(-1), torch.tensor(BINS, device=distance.device), right=True)
        for index, count in zip(*(column.tolist() for column in bins.unique(return_counts=True)), strict=True):
            self.histogram[index] += count
        tops, others = first.argmax(-1), second.argmax(-1)
        self.same += int((tops == others).sum())
        for place in (tops != others).nonzero().flatten().tolist():
            margin = float(first[place, tops[place]] - first[place, others[place]])
            self.apart.append((margin, (int(labels[place]), int(tops[place]), int(others[place]))))

    def result(self, tokenizer: Any) -> TeacherForced:
        """As plain numbers; the disagreements with the widest margin first, as text."""
        widest = sorted(self.apart, key=lambda row: -row[0])
        texts = [(margin, *(tokenizer.decode([token]) for token in tokens)) for margin, tokens in widest[:MAX_SHOWN]]
        return TeacherForced(
            tokens=self.tokens,
            agreement=self.same / max(1, self.tokens),
            largest=self.largest,
            mean=self.mean / max(1, self.tokens),
            divergence=self.divergence / max(1, self.tokens),
            edges=BINS,
            counts=tuple(self.histogram),
            widest_margin=widest[0][0] if widest else 0.0,
            apart=tuple(Disagreement(given, first, second, margin) for margin, given, first, second in texts),
        )
