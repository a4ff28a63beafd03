"""How far two model folders are apart, number by number, in units in the last place: the same merge made in two ways.

A unit in the last place (ulp) is the step from one number of a type to the next one. Numbers of bf16, fp16 and fp32 are in order
when their bits are read as sign and magnitude, so the distance of two is the difference of those integers.
(IEEE 754; bf16 is the upper half of fp32.)

Covers: folders whose tensors have the same names, shapes and types, however their shards are cut. Does not cover: whether the
difference matters (`comparing`). Used by notebook 06 as `labkit.lora.difference`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.errors import LabError
from ..common.progress import Progress
from ..models.headers import Tensor, Weights

BITS = {"BF16": "<u2", "F16": "<u2", "F32": "<u4"}
BLOCK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Distance:
    """`elements` numbers in `tensors` tensors were compared, `different` of them differ, by at most `ulps`, in tensor `worst`."""

    first: Path
    second: Path
    tensors: int
    elements: int
    different: int
    ulps: int
    worst: str

    def __bool__(self) -> bool:
        """True when anything differs."""
        return self.different > 0

    def __str__(self) -> str:
        pair = f"{self.first.name} and {self.second.name}"
        if not self:
            return f"{pair}: {self.elements:,} numbers in {self.tensors} tensors, all equal bit for bit"
        return (
            f"{pair}: {self.different:,} of {self.elements:,} numbers differ, by at most {self.ulps} unit{'s' * (self.ulps > 1)} "
            f"in the last place ({self.worst})"
        )

    __repr__ = __str__


def difference(first: str | Path, second: str | Path) -> Distance:
    """Compare every number of two model folders; reads both files once, with progress.

    Raises `LabError` children for a folder that is no whole model, and for two whose tensors differ in name, shape or type.
    """
    ours, theirs = Weights.read(first), Weights.read(second)
    _require_alike(ours, theirs)
    elements = different = ulps = 0
    worst = ""
    with Progress(f"Comparing {ours.folder.name} and {theirs.folder.name}", total=ours.bytes, unit="B") as bar:
        read = 0
        for name, tensor in ours.tensors.items():
            for left, right in _blocks(tensor, theirs.tensors[name]):
                steps = abs(_order(left) - _order(right))
                elements += steps.size
                different += int((steps > 0).sum())
                if steps.size and int(steps.max()) > ulps:
                    ulps, worst = int(steps.max()), name
                read += left.nbytes
                bar.update(read)
    return Distance(ours.folder, theirs.folder, len(ours.tensors), elements, different, ulps, worst)


def _require_alike(ours: Weights, theirs: Weights) -> None:
    layouts = [{name: (tensor.shape, tensor.dtype) for name, tensor in weights.tensors.items()} for weights in (ours, theirs)]
    unlike = sorted(name for name in layouts[0].keys() | layouts[1].keys() if layouts[0].get(name) != layouts[1].get(name))
    if unlike:
        raise LabError(
            f"{ours.folder} and {theirs.folder} do not hold the same tensors: {unlike[0]} ({len(unlike)} in all).",
            "Compare two folders made from the same base.",
        )
    strange = next((tensor for tensor in ours.tensors.values() if tensor.dtype not in BITS), None)
    if strange:
        raise LabError(f"{strange} is of a type that has no such order.", f"Known: {', '.join(BITS)}.")


def _blocks(ours: Tensor, theirs: Tensor) -> Iterator[tuple[Any, Any]]:
    """The bits of both, a block at a time."""
    import numpy as np

    bits = np.dtype(BITS[ours.dtype])
    with ours.file.open("rb") as left, theirs.file.open("rb") as right:
        left.seek(ours.offset)
        right.seek(theirs.offset)
        for done in range(0, ours.bytes, BLOCK_BYTES):
            size = min(BLOCK_BYTES, ours.bytes - done)
            yield np.frombuffer(left.read(size), bits), np.frombuffer(right.read(size), bits)


def _order(bits: Any) -> Any:
    """Integers that count the numbers of the type upwards; -0 and +0 are the same."""
    import numpy as np

    top = np.int64(1) << (8 * bits.dtype.itemsize - 1)
    magnitude = bits.astype(np.int64) & (top - 1)
    return np.where(bits.astype(np.int64) & top, -magnitude, magnitude)
