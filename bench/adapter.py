#!/usr/bin/env python3
"""What an adapter does for the course model: trained, scored on the test split, merged, and held against the injected one.

    .venv/bin/python bench/adapter.py [--incidents 96] [--steps N] [--seed 0] [--keep FOLDER]

One run through transformers, no server. Prints hit rate and JSON compliance of the base, of base + adapter and of the merged
model at temperature 0, the agreement of merged and injected, and the limits: with the adapter at least 90 % hits and 98 %
compliance, the same first token at 99 % of the positions. Exits with 1 if one is missed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from labkit import lora
from labkit.evaluation import incidents, offline
from labkit.evaluation.scores import Score, table
from labkit.models import course_model
from labkit.models.profiles import profile
from labkit.training import finetune

HITS, COMPLIANCE, AGREEMENT = 0.90, 0.98, 0.99


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--incidents", type=int, default=incidents.COUNTS["test"], help="of the test split")
    parser.add_argument("--steps", type=int, help="training steps (default: as notebook 06 has it)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a new folder for adapter and merged model (default: removed at the end)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        return run(chosen.keep or Path(scratch) / "adapter", chosen.incidents, chosen.steps, chosen.seed)


def run(work: Path, count: int, steps: int | None, seed: int) -> int:
    """Everything in order; returns the exit code."""
    base = course_model.make(profile("tiny"), work / "base")
    test = incidents.load("test", count)
    training = finetune.train(base, incidents.conversations("train"), work / "adapter", steps=steps, seed=seed)
    merged = lora.merge(base, training.folder, work / "merged")
    scores = {
        "base": offline.score(base, test, label="base"),
        "adapter": offline.score(base, test, adapter=training.folder, label="base + adapter"),
        "merged": offline.score(merged.folder, test, label="merged"),
    }
    proof = lora.compare(base, training.folder, merged.folder, incidents.conversations("validation"))
    print(training, merged, table(*scores.values()), *proof.lines(), sep="\n")
    return conclude(scores["adapter"], proof.agreement)


def conclude(adapter: Score, agreement: float) -> int:
    """Each figure beside its limit."""
    rows = [
        ("hit rate", adapter.hit_rate, HITS),
        ("JSON compliance", adapter.compliance, COMPLIANCE),
        ("top-1 agreement", agreement, AGREEMENT),
    ]
    for name, seen, least in rows:
        print(f"{name}: {seen:.1%} (at least {least:.0%} wanted)")
    return int(any(seen < least for _, seen, least in rows))


if __name__ == "__main__":
    raise SystemExit(main())
