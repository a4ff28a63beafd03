"""How the merge cuts its work up: every byte once, no block so small that a product would round otherwise. Without torch."""

from __future__ import annotations

import random
from pathlib import Path

from lora_folders import PREFIX, model_tensors, pairs, write_adapter, write_base

from labkit.lora import merging
from labkit.lora.checks import look
from labkit.models.adapter import Adapter
from labkit.models.headers import Weights
from labkit.workers import merge_worker


def test_blocks_cover_the_rows_that_are_asked_for() -> None:
    chance = random.Random(0)
    for _ in range(2000):
        rows, columns = chance.randrange(1, 5000), chance.choice([1, 7, 64, 1024, 12288, 300_000])
        first = chance.randrange(rows)
        last = chance.randrange(first + 1, rows + 1)
        blocks = list(merge_worker._blocks(first, last, rows, columns))
        seen = {row for start, end in blocks for row in range(start, end)}
        assert set(range(first, last)) <= seen <= set(range(rows))
        assert all(end - start >= min(merge_worker.GRID, rows) for start, end in blocks)
        assert max(end - start for start, end in blocks) <= max(merge_worker.BLOCK_ITEMS // columns, 2 * merge_worker.GRID)
        assert len(seen - set(range(first, last))) < 3 * merge_worker.GRID


def test_a_shards_parts_are_its_bytes_each_once(tmp_path: Path) -> None:
    tensors = pairs() | {f"{PREFIX}lm_head.weight": ("F32", (10, 8))}
    base = Weights.read(write_base(tmp_path / "base", {**model_tensors(), "model.none.weight": ("BF16", (0, 8))}))
    adapter = Adapter.read(write_adapter(tmp_path / "adapter", tensors, modules_to_save=["lm_head"]))
    changes = {change.target.name: change for change in look(base, adapter, started=0.0)[1].changes}
    assert len(changes) == 5
    shard = merge_worker._Shard(merging._shard(base, base.files[0], tmp_path / "out", changes))
    edges = [0, *(edge for part in shard.parts for edge in (part.first, part.last)), shard.size]
    assert edges[::2] == edges[1::2]
    assert {part.change["name"] for part in shard.parts if part.change} == set(changes)
    for first in range(0, shard.size, 100):
        last = min(first + 100, shard.size)
        inside = [(max(part.first, first), min(part.last, last)) for part in shard.within(first, last)]
        assert inside[0][0] == first and inside[-1][1] == last
        assert all(one[1] == other[0] for one, other in zip(inside, inside[1:], strict=False))
