"""Bits of every type told: broken, zero, empty, the same."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from lora_folders import write_tensors

from labkit.models.headers import read_header
from labkit.models.tensor_numbers import Numbers, matrix, same

BYTES = {
    "F32": {
        "nan": struct.pack("<f", float("nan")),
        "inf": struct.pack("<f", float("-inf")),
        "one": struct.pack("<f", 1),
        "-0": struct.pack("<f", -0.0),
    },
    "F16": {"nan": b"\x01\x7e", "inf": b"\x00\xfc", "one": b"\x00\x3c", "-0": b"\x00\x80"},
    "BF16": {"nan": b"\xc0\x7f", "inf": b"\x80\xff", "one": b"\x80\x3f", "-0": b"\x00\x80"},
    "F64": {
        "nan": struct.pack("<d", float("nan")),
        "inf": struct.pack("<d", float("inf")),
        "one": struct.pack("<d", 1),
        "-0": struct.pack("<d", -0.0),
    },
}


@pytest.mark.parametrize("dtype", BYTES)
def test_each_type(tmp_path: Path, dtype: str) -> None:
    tensors = {name: (dtype, (3, 2)) for name in BYTES[dtype]} | {"empty": (dtype, (0,)), "drawn": (dtype, (3, 2))}
    header = read_header(write_tensors(tmp_path / "x.safetensors", tensors, BYTES[dtype]))
    found = Numbers.read(header)
    assert (sorted(found.broken), found.zero, found.empty, found.unread) == (["inf", "nan"], {"-0"}, ["empty"], [])
    assert (matrix(header["one"]) == 1).all() and matrix(header["one"]).shape == (3, 2)


def test_a_single_broken_number_is_found(tmp_path: Path) -> None:
    path = write_tensors(tmp_path / "x.safetensors", {"a": ("BF16", (300, 40))})
    tensor = read_header(path)["a"]
    with path.open("r+b") as stream:
        stream.seek(tensor.offset + 2 * 7777)
        stream.write(BYTES["BF16"]["nan"])
    assert Numbers.read({"a": tensor}).broken == ["a"]


def test_types_without_a_known_layout_are_left_and_said(tmp_path: Path) -> None:
    header = read_header(write_tensors(tmp_path / "x.safetensors", {"q": ("F8_E4M3", (4,)), "n": ("I8", (4,))}))
    assert sorted(Numbers.read(header).unread) == ["n", "q"]


def test_the_same_bytes(tmp_path: Path) -> None:
    one = read_header(write_tensors(tmp_path / "1.safetensors", {"a": ("F32", (2, 2)), "b": ("F32", (2, 2)), "c": ("F32", (4,))}))
    assert same(one["a"], one["a"]) and not same(one["a"], one["b"]) and not same(one["a"], one["c"])
