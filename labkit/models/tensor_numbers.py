"""The numbers of tensors in safetensors files, read without torch: is any broken, is all of it zero, are two the same?

bf16, fp16 and fp32 keep sign, exponent and mantissa in that order (IEEE 754; bf16 is the upper half of fp32): NaN and infinity have all
bits of the exponent set, zero has none but the sign. So a look at the bits as integers is enough, for types that numpy lacks too.

Covers: adapters and single tensors. Does not cover: arithmetic in these types (`workers`), pickles, which nothing here opens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .headers import Tensor

EXPONENTS = {"F64": ("<u8", 0x7FF0 << 48), "F32": ("<u4", 0x7F800000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80)}
"""Type -> the integer that it is read as, and the bits of its exponent."""
BLOCK_BYTES = 16 * 2**20


@dataclass
class Numbers:
    """What reading found, by the keys of the file: `broken` hold NaN or infinity, `zero` nothing but zeros, `empty` nothing at all."""

    broken: list[str] = field(default_factory=list)
    zero: set[str] = field(default_factory=set)
    empty: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor]) -> Numbers:
        """Read every number of `tensors`; a second for each GB."""
        found = cls()
        for name, tensor in tensors.items():
            if 0 in tensor.shape:
                found.empty.append(name)
            elif tensor.dtype not in EXPONENTS:
                found.unread.append(name)
            else:
                found._take(name, tensor)
        return found

    def _take(self, name: str, tensor: Tensor) -> None:
        word, exponent = EXPONENTS[tensor.dtype]
        zero = True
        for block in blocks(tensor, word):
            magnitude = block & ((1 << 8 * block.dtype.itemsize - 1) - 1)
            zero = zero and not magnitude.any()
            if int(magnitude.max(initial=0)) >= exponent:
                return self.broken.append(name)
        if zero:
            self.zero.add(name)


def blocks(tensor: Tensor, word: str, size: int = BLOCK_BYTES) -> Iterator[Any]:
    """The tensor's bits as integers of the type `word`, `size` bytes at a time."""
    import numpy as np

    with tensor.file.open("rb") as stream:
        stream.seek(tensor.offset)
        for done in range(0, tensor.bytes, size):
            yield np.frombuffer(stream.read(min(size, tensor.bytes - done)), word)


def rows(tensor: Tensor) -> Iterator[Any]:
    """A matrix of a type in EXPONENTS in fp32, a few rows at a time."""
    import numpy as np

    word, _ = EXPONENTS[tensor.dtype]
    width = tensor.bytes // max(1, tensor.shape[0])
    for bits in blocks(tensor, word, max(1, BLOCK_BYTES // max(1, width)) * width or BLOCK_BYTES):
        if tensor.dtype == "BF16":
            numbers = (bits.astype(np.uint32) << 16).view(np.float32)
        else:
            numbers = bits.view({"F64": "<f8", "F32": "<f4", "F16": "<f2"}[tensor.dtype]).astype(np.float32)
        yield numbers.reshape(-1, *tensor.shape[1:])


def matrix(tensor: Tensor) -> Any:
    """The whole of it; for small ones."""
    import numpy as np

    return np.concatenate([*rows(tensor)])


def same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors hold the same bytes in the same shape and type."""
    if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
        return False
    return all((left == right).all() for left, right in zip(blocks(ours, "u1"), blocks(theirs, "u1"), strict=True))
