"""The distance of two model folders in units in the last place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from labkit import lora
from labkit.common.errors import LabError


def model(folder: Path, **tensors: np.ndarray) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_it_counts_the_steps_between_numbers_also_across_zero(tmp_path: Path, kind: type) -> None:
    numbers = np.array([1.0, -2.0, 0.0, 3.0], kind)
    other = numbers.copy()
    other[1] = np.nextafter(np.nextafter(kind(-2.0), kind(0)), kind(0))
    other[2] = -np.nextafter(kind(0), kind(1))
    found = lora.difference(model(tmp_path / "a", w=numbers, v=numbers), model(tmp_path / "b", w=numbers, v=other))
    assert (found.elements, found.different, found.ulps, found.worst) == (8, 2, 2, "v")
    assert found and "2 of 8 numbers differ, by at most 2 units" in str(found)


def test_equal_folders_are_equal_and_minus_zero_is_zero(tmp_path: Path) -> None:
    zeros = np.zeros(3, np.float32)
    found = lora.difference(model(tmp_path / "a", w=zeros), model(tmp_path / "b", w=-zeros))
    assert not found and found.ulps == 0 and "all equal" in str(found)


def test_folders_with_other_tensors_are_refused(tmp_path: Path) -> None:
    first = model(tmp_path / "a", w=np.zeros(3, np.float32))
    with pytest.raises(LabError, match="do not hold the same tensors: w"):
        lora.difference(first, model(tmp_path / "b", w=np.zeros(4, np.float32)))
    with pytest.raises(LabError, match="no such order"):
        lora.difference(model(tmp_path / "c", w=np.zeros(3, np.int32)), model(tmp_path / "d", w=np.zeros(3, np.int32)))
