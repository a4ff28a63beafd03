"""How the merge cuts a tensor into blocks: none so small that a product would round otherwise. Without torch."""

from __future__ import annotations

import random

from labkit.workers import merge_arithmetic


def test_blocks_cover_the_rows_that_are_asked_for() -> None:
    chance = random.Random(0)
    for _ in range(2000):
        rows, columns = chance.randrange(1, 5000), chance.choice([1, 7, 64, 1024, 12288, 300_000])
        first = chance.randrange(rows)
        last = chance.randrange(first + 1, rows + 1)
        blocks = list(merge_arithmetic.blocks(first, last, rows, columns))
        seen = {row for start, end in blocks for row in range(start, end)}
        assert set(range(first, last)) <= seen <= set(range(rows))
        assert all(end - start >= min(merge_arithmetic.GRID, rows) for start, end in blocks)
        assert max(end - start for start, end in blocks) <= max(merge_arithmetic.BLOCK_ITEMS // columns, 2 * merge_arithmetic.GRID)
        assert len(seen - set(range(first, last))) < 3 * merge_arithmetic.GRID
