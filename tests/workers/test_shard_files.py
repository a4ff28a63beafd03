"""How the merge cuts a file up: every byte once. Without torch."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from lora_folders import PREFIX, model_tensors, pairs, write_adapter, write_base

from labkit.lora.checks import look
from labkit.lora.layout import shard_job
from labkit.models.adapter import Adapter
from labkit.models.headers import Weights
from labkit.workers.merge_job import ShardJob
from labkit.workers.messages import parse
from labkit.workers.shard_files import ShardFile


def test_a_shards_parts_are_its_bytes_each_once(tmp_path: Path) -> None:
    tensors = pairs() | {f"{PREFIX}lm_head.weight": ("F32", (10, 8))}
    base = Weights.read(write_base(tmp_path / "base", {**model_tensors(), "model.none.weight": ("BF16", (0, 8))}))
    adapter = Adapter.read(write_adapter(tmp_path / "adapter", tensors, modules_to_save=["lm_head"]))
    changes = {change.target.name: change for change in look(base, adapter, started=0.0)[1].changes}
    assert len(changes) == 5
    job = shard_job(base, base.files[0], tmp_path / "out", changes)
    shard = ShardFile(parse(ShardJob, json.loads(json.dumps(asdict(job)))))
    edges = [0, *(edge for part in shard.parts for edge in (part.first, part.last)), shard.size]
    assert edges[::2] == edges[1::2]
    assert {part.change.name for part in shard.parts if part.change} == set(changes)
    for first in range(0, shard.size, 100):
        last = min(first + 100, shard.size)
        inside = [(max(part.first, first), min(part.last, last)) for part in shard.within(first, last)]
        assert inside[0][0] == first and inside[-1][1] == last
        assert all(one[1] == other[0] for one, other in zip(inside, inside[1:], strict=False))
