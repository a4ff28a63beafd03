"""The rows of a changed tensor as they become, in one thread of `merge_worker`, in the vLLM environment.

The arithmetic is PEFT's plain `merge_and_unload` (0.21.2, tuners/lora/layer.py), operation by operation, so that the bits are the
same: B @ A in fp32 (PEFT loads adapters as fp32), times the scale, added to the base's fp32 value, one cast. Where PEFT rounds the
delta first (embeddings), so does this. Rows of a product do not depend on one another, therefore a few at a time give the same
numbers; they stay in the processor's cache, which makes it fast and small.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

from labkit.workers.merge_job import TensorChange, TensorData
from labkit.workers.shard_files import Inputs
from labkit.workers.side import Refused

BLOCK_ITEMS = 128 * 1024
"""Numbers worked on at a time: half a MiB in fp32, which a core's own cache holds together with what else is needed."""
GRID = 16
"""Least rows of a product: with less than 4 rows or 12 columns, MKL (2024.2, AVX-512) goes another way, which rounds otherwise."""


class Factors:
    """DoRA's factors of the tensors whose norms need all rows, computed once for all threads."""

    def __init__(self) -> None:
        self.lock, self.factors = threading.Lock(), dict[str, Any]()

    def get(self, name: str, compute: Callable[[], Any]) -> Any:
        with self.lock:
            if name not in self.factors:
                self.factors[name] = compute()
            return self.factors[name]


class Arithmetic:
    """What one thread computes with: buffers that are used again and again, and the adapter's tensors of the change it is at."""

    def __init__(self, inputs: Inputs, factors: Factors) -> None:
        self.inputs, self.factors = inputs, factors
        self.buffers: dict[tuple[str, Any], Any] = {}
        self.operands: tuple[str, tuple[Any, ...]] = ("", ())

    def rows(self, change: TensorChange, first: int, last: int, merged: Any) -> Any:
        """Write rows `first` to `last` as they become to `merged`; returns them as the base has them, in the base's type too.

        Raises `Refused` where one would hold NaN or infinity.
        """
        import torch

        shape = (last - first, change.base.columns)
        base = self._read("base", change.base, first, shape)
        total = start = self._start(change, base, first, shape)
        a, b, magnitude = self._operands(change)
        if a is not None:
            delta = self._delta(change, a, b, first, last)
            total = self._total(start, delta.to(merged.dtype) if change.rounds and magnitude is None else delta)
            if magnitude is not None:
                total *= self._factor(change, magnitude, total, first, last)
        merged.copy_(total)
        if not _finite(merged if merged.dtype == torch.float16 else total):
            raise self._not_finite(change, base)
        return base

    def buffer(self, name: str, dtype: Any, shape: tuple[int, int]) -> Any:
        """A matrix of that type and shape, holding anything; the next one of that name takes its place."""
        import torch

        items = shape[0] * shape[1]
        held = self.buffers.get((name, dtype))
        if held is None or held.numel() < items:
            held = self.buffers[name, dtype] = torch.empty(items, dtype=dtype)
        return held[:items].view(*shape)

    def _start(self, change: TensorChange, base: Any, first: int, shape: tuple[int, int]) -> Any:
        """The rows before the delta: the base's, or those that the adapter brings, in the base's type."""
        return base if change.start is None else self._read("start", change.start, first, shape).to(base.dtype)

    def _delta(self, change: TensorChange, a: Any, b: Any, first: int, last: int) -> Any:
        """Rows of B @ A times the scale, in this order: scaling first would round otherwise."""
        import torch

        columns = change.base.columns
        if change.transposed:
            product = torch.mm(b, a[:, first:last], out=self.buffer("delta", torch.float32, (columns, last - first))).T
        else:
            product = torch.mm(b[first:last], a, out=self.buffer("delta", torch.float32, (last - first, columns)))
        return product.mul_(change.scale)

    def _total(self, start: Any, delta: Any) -> Any:
        import torch

        return self.buffer("total", torch.float32, tuple(start.shape)).copy_(start).add_(delta)

    def _factor(self, change: TensorChange, magnitude: Any, total: Any, first: int, last: int) -> Any:
        """DoRA: magnitude over the norm of all that leads to one output, which is a row, or a column of a transposed weight."""
        import torch

        if not change.transposed:
            return (magnitude[first:last] / torch.linalg.norm(total, dim=1)).view(-1, 1)
        return self.factors.get(change.name, lambda: magnitude / self._column_norms(change)).view(1, -1)

    def _column_norms(self, change: TensorChange) -> Any:
        """A column's norm needs all rows."""
        import torch

        alone = Arithmetic(self.inputs, self.factors)  # buffers of its own: they are as large as the tensor
        shape = (change.base.rows, change.base.columns)
        start = alone._start(change, alone._read("base", change.base, 0, shape), 0, shape)
        a, b, _ = self._operands(change)
        return torch.linalg.norm(alone._total(start, alone._delta(change, a, b, 0, shape[0])).T, dim=1)

    def _operands(self, change: TensorChange) -> tuple[Any, ...]:
        """lora_A, lora_B and the magnitude vector, whole and in fp32, held while the thread is at this change."""
        if self.operands[0] != change.name:
            self.operands = change.name, tuple(self._operand(tensor) for tensor in (change.a, change.b, change.magnitude))
        return self.operands[1]

    def _operand(self, tensor: TensorData | None) -> Any:
        import torch

        if tensor is None:
            return None
        flat = torch.empty(math.prod(tensor.shape), dtype=dtype_of(tensor))
        self.inputs.fill(flat, tensor.file, tensor.offset)
        return flat.view(*tensor.shape).float()

    def _read(self, name: str, tensor: TensorData, first: int, shape: tuple[int, int]) -> Any:
        """Rows of a tensor from `first` on, in its own type."""
        rows = self.buffer(name, dtype_of(tensor), shape)
        self.inputs.fill(rows, tensor.file, tensor.offset + first * shape[1] * rows.element_size())
        return rows

    def _not_finite(self, change: TensorChange, base: Any) -> Refused:
        if not _finite(base):
            return Refused(f"The base's {change.name} in {change.base.file} holds NaN or infinity.", "Download or make this model again.")
        parts = zip(("lora_A", "lora_B", "its magnitude vector"), self._operands(change), strict=True)
        broken = " and ".join(name for name, tensor in parts if tensor is not None and not _finite(tensor))
        adapter = next(tensor.file for tensor in (change.a, change.start) if tensor is not None)
        if broken:
            cause = f"{change.name} would hold NaN or infinity after the merge: {broken} of {adapter} is broken."
        else:
            cause = f"{change.name} would leave the range of {change.base.dtype} after the merge with {adapter}."
        return Refused(cause, "Train again with a lower learning rate, or take an earlier checkpoint. Nothing was kept.")


def blocks(first: int, last: int, rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Rows `first` to `last` of `rows` in blocks that begin and end at multiples of GRID, a few rows more at the edges.

    None has fewer rows than GRID, unless the tensor has.
    """
    step = max(GRID, BLOCK_ITEMS // columns // GRID * GRID)
    first, last = first // GRID * GRID, min(-(-last // GRID) * GRID, rows)
    for start in range(first, last, step):
        end = min(start + step, last)
        yield (start if end - start >= GRID else max(0, start - GRID)), end


def dtype_of(tensor: TensorData) -> Any:
    """torch's name for the tensor's type."""
    import torch

    small = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
    return {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, **small}[tensor.dtype]


def _finite(tensor: Any) -> bool:
    """One pass where all is well: a sum is finite only if its parts are. A sum that overflowed is looked at again."""
    import torch

    return math.isfinite(tensor.sum(dtype=torch.float32).item()) or bool(torch.isfinite(tensor).all())
