"""What `lora.merging` asks of `merge_worker`, and what comes back. Standard library only: both sides import it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class TensorData:
    """Where a tensor's numbers lie: `offset` from the start of `file`, `bytes` of them, `dtype` as safetensors writes it ("BF16")."""

    file: str
    offset: int
    bytes: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def columns(self) -> int:
        """Numbers in a row, all other dimensions taken together."""
        return math.prod(self.shape[1:])


@dataclass(frozen=True)
class TensorChange:
    """What becomes of the base tensor `name`: see `lora.pairing.Change`. `start` is None where it is the base's own tensor."""

    name: str
    base: TensorData
    start: TensorData | None
    a: TensorData | None
    b: TensorData | None
    magnitude: TensorData | None
    scale: float
    transposed: bool
    rounds: bool


@dataclass(frozen=True)
class ShardJob:
    """One file: `copies` (offset, bytes) and the tensors of `changes` are together the whole of its `size` bytes."""

    name: str
    source: str
    target: str
    size: int
    copies: tuple[tuple[int, ...], ...]
    changes: tuple[TensorChange, ...]


@dataclass(frozen=True)
class MergeRequest:
    """Write these shards. As each is whole, an event "shard" says its `name` and the names of its tensors that `changed`."""

    shards: tuple[ShardJob, ...]
    job: str = "merge"


@dataclass(frozen=True)
class PeftRequest:
    """Merge the folders `base` and `adapter` with PEFT and save the model to the folder `out`."""

    base: str
    adapter: str
    out: str
    job: str = "peft"


@dataclass(frozen=True)
class UnpickleRequest:
    """Write the tensors of the file `pickle` to the safetensors file `out`."""

    pickle: str
    out: str
    job: str = "unpickle"


@dataclass(frozen=True)
class MergeResult:
    """The most memory that the worker held, in bytes."""

    peak_bytes: int = 0
