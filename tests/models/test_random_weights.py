"""Random shards and adapters: whole folders, the shape asked for, numbers in range."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from labkit.common.errors import NoSpace, SettingError
from labkit.lora.checks import check
from labkit.models import random_weights
from labkit.models.adapter import Adapter
from labkit.models.folders import require_model
from labkit.models.headers import INDEX, Tensor, Weights
from labkit.models.profiles import Profile, profile


@pytest.fixture
def small() -> Profile:
    real = profile("qwen3-8b-shape")
    return replace(real, shape=replace(real.shape, layers=3, hidden=64, intermediate=128, heads=4, kv_heads=2, head_dim=16, vocab=5000))


def numbers(tensor: Tensor) -> np.ndarray:
    with tensor.file.open("rb") as stream:
        stream.seek(tensor.offset)
        data = stream.read(tensor.bytes)
    if tensor.dtype == "F32":
        return np.frombuffer(data, np.float32)
    return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)


def test_the_folder_is_whole_and_has_the_shape(small: Profile, tmp_path: Path) -> None:
    folder = random_weights.fill(small, tmp_path / "base", layers=2, shard_bytes=400_000)
    require_model(folder)
    weights = Weights.read(folder)
    assert len(weights.files) > 2 and weights.config["num_hidden_layers"] == 2
    assert weights.tensors["model.layers.1.mlp.down_proj.weight"].shape == (64, 128)
    assert sum(tensor.bytes for tensor in weights.tensors.values()) == json.loads((folder / INDEX).read_text())["metadata"]["total_size"]
    assert all(file.stat().st_size < 900_000 for file in weights.files)


def test_the_real_shape_has_the_parameters_of_its_profile() -> None:
    shape = profile("qwen3-8b-shape").shape
    assert sum(map(random_weights._size, random_weights._model(shape))) == 2 * shape.parameters


def test_numbers_are_as_models_are_initialised_and_differ_from_tensor_to_tensor(small: Profile, tmp_path: Path) -> None:
    weights = Weights.read(random_weights.fill(small, tmp_path / "base"))
    q, k = (numbers(weights.tensors[f"model.layers.0.self_attn.{name}_proj.weight"]) for name in "qk")
    assert 0.018 < q.std() < 0.022 and np.isfinite(q).all() and not np.array_equal(q[: len(k)], k)
    assert set(numbers(weights.tensors["model.norm.weight"])) == {1.0}


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_an_adapter_fits_its_base_and_changes_it(small: Profile, tmp_path: Path, dtype: str) -> None:
    base = random_weights.fill(small, tmp_path / "base")
    adapter = random_weights.random_adapter(base, tmp_path / "adapter", rank=4, alpha=6, dtype=dtype)
    report = check(base, adapter)
    assert report and not report.findings
    read = Adapter.read(adapter)
    assert len(read.tensors) == 2 * 7 * 3 and {tensor.dtype for tensor in read.tensors.values()} == {dtype}
    assert all(numbers(tensor).any() for tensor in read.tensors.values())


def test_bad_requests_are_refused_before_anything_is_written(small: Profile, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="Qwen2"):
        random_weights.fill(profile("r1-qwen-1.5b"), tmp_path / "x")
    with pytest.raises(NoSpace):
        random_weights.fill(replace(small, shape=replace(small.shape, hidden=2**22)), tmp_path / "x")
    base = random_weights.fill(small, tmp_path / "base")
    with pytest.raises(SettingError, match="c_attn match no matrix"):
        random_weights.random_adapter(base, tmp_path / "x", targets=["c_attn"])
    with pytest.raises(SettingError, match="adapter type"):
        random_weights.random_adapter(base, tmp_path / "x", dtype="F16")
    with pytest.raises(SettingError, match="not empty"):
        random_weights.random_adapter(base, base)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
