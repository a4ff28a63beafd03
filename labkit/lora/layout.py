"""The bytes of a base on their way into a merge: which are copied, which belong to a changed tensor, which are other afterwards.

Covers: one file's job for `merge_worker`, and tensors held byte against byte. Does not cover: what a change is (`pairing`), how far
two numbers are apart (`ulps`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from ..models.headers import Tensor, Weights
from ..workers.merge_job import ShardJob, TensorChange, TensorData
from .changes import Change

BLOCK_BYTES = 8 * 2**20


def shard_job(base: Weights, source: Path, target: Path, changes: Mapping[str, Change]) -> ShardJob:
    """The worker's job for one file of `base`: byte ranges to copy and tensors to change, which together are the whole file."""
    size, position = source.stat().st_size, 0
    copies, changed = [], []
    for tensor in sorted((tensor for tensor in base.tensors.values() if tensor.file == source), key=lambda tensor: tensor.offset):
        if tensor.name in changes:
            if tensor.offset > position:
                copies.append((position, tensor.offset - position))
            changed.append(_tensor_change(changes[tensor.name]))
            position = tensor.offset + tensor.bytes
    if size > position:
        copies.append((position, size - position))
    return ShardJob(source.name, str(source), str(target), size, tuple(copies), tuple(changed))


def _tensor_change(change: Change) -> TensorChange:
    a, b, magnitude = (None if tensor is None else _data(tensor) for tensor in (change.a, change.b, change.magnitude))
    return TensorChange(
        name=change.target.name,
        base=_data(change.target),
        start=None if change.start is change.target else _data(change.start),
        a=a,
        b=b,
        magnitude=magnitude,
        scale=change.scale,
        transposed=change.transposed,
        rounds=change.rounds,
    )


def _data(tensor: Tensor) -> TensorData:
    return TensorData(str(tensor.file), tensor.offset, tensor.bytes, tensor.dtype, tensor.shape)


def changed_names(base: Weights, merged: Weights, names: Iterable[str]) -> list[str]:
    """Those of `names` whose bytes differ; a tensor is read up to its first difference."""
    pairs = ((base.tensors[name], merged.tensors.get(name)) for name in names)
    return [ours.name for ours, theirs in pairs if theirs is not None and _differ(ours, theirs)]


def _differ(ours: Tensor, theirs: Tensor) -> bool:
    if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
        return True
    with ours.file.open("rb") as left, theirs.file.open("rb") as right:
        left.seek(ours.offset)
        right.seek(theirs.offset)
        sizes = [min(BLOCK_BYTES, ours.bytes - done) for done in range(0, ours.bytes, BLOCK_BYTES)]
        return any(left.read(size) != right.read(size) for size in sizes)
