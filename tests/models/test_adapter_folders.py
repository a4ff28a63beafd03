"""Folders that are given for an adapter and are none, each with what it is and the next step."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lora_folders import LORA, pairs, write_adapter, write_json, write_tensors

from labkit.common.errors import LabError
from labkit.models.adapter import Adapter

PAIRS = pairs()
SHARD = "adapter_model-{:05d}-of-{:05d}.safetensors"


def config_alone(folder: Path, **config: Any) -> Path:
    folder.mkdir()
    write_json(folder / "adapter_config.json", {**LORA, **config})
    return folder


def named(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        write_adapter(folder / name)
    return folder


def sharded(folder: Path, *shards: tuple[int, int]) -> Path:
    config_alone(folder)
    for number, count in shards:
        write_tensors(folder / SHARD.format(number, count), PAIRS)
    return folder


def mlx(folder: Path) -> Path:
    config = {"fine_tune_type": "lora", "lora_parameters": {"rank": 8}, "num_layers": 2}
    folder.mkdir()
    write_json(folder / "adapter_config.json", config)
    write_tensors(folder / "adapters.safetensors", {"model.layers.0.self_attn.q_proj.lora_a": ("F32", (8, 4))})
    return folder


def other_file(folder: Path, name: str) -> Path:
    config_alone(folder)
    write_tensors(folder / name, PAIRS)
    return folder


def model(folder: Path) -> Path:
    folder.mkdir()
    write_json(folder / "config.json", {})
    return folder


FOLDERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing there": (lambda f: f, "is not there"),
    "a file": (lambda f: write_tensors(f, {}), "is a file"),
    "checkpoints": (
        lambda f: named(f, "checkpoint-500", "checkpoint-1000"),
        r"below it: checkpoint-500, checkpoint-1000.*checkpoint-1000\.",
    ),
    "two by name": (lambda f: named(f, "policy", "reference"), "below it: policy, reference"),
    "config, then checkpoints": (lambda f: named(config_alone(f), "checkpoint-7"), "neither .* below it: checkpoint-7"),
    "whole shards": (lambda f: sharded(f, (1, 2), (2, 2)), "in 2 shards .*save_file"),
    "a shard lost": (lambda f: sharded(f, (1, 3), (3, 3)), "not all of them: missing adapter_model-00002-of-00003"),
    "shards of two savings": (lambda f: sharded(f, (1, 2), (2, 3)), "missing adapter_model-00001-of-00003.*adapter_model-00002-of-00002"),
    "MLX": (mlx, "adapter of MLX.*mlx_lm.fuse"),
    "another name": (lambda f: other_file(f, "pytorch_lora_weights.safetensors"), "it has pytorch_lora_weights.safetensors"),
    "pickles": (
        lambda f: other_file(f, "adapter_model-00001-of-00002.bin"),
        r"in 1 pickles .*weights_only=True",
    ),
    "a model": (model, "it has a model's config.json"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_what_it_holds_instead(tmp_path: Path, name: str) -> None:
    make, said = FOLDERS[name]
    with pytest.raises(LabError) as caught:
        Adapter.read(make(tmp_path / "folder"))
    assert re.search(said, str(caught.value), re.DOTALL)


@pytest.mark.parametrize(
    "config",
    [
        {"r": "eight"},
        {"lora_alpha": [16]},
        {"rank_pattern": ["q_proj"]},
        {"alpha_pattern": {"q_proj": "16"}},
        {"alpha_pattern": {"(q_proj": 16}},
        {"target_modules": {"q_proj": 1}},
        {"modules_to_save": [1]},
        {"modules_to_save": ["(norm"]},
        {"target_modules": ".*(q_proj"},
        {"exclude_modules": "*q_proj"},
        {"layers_pattern": "("},
        {"layers_pattern": [1]},
        {"layers_to_transform": "0"},
        {"layers_to_transform": ["0"]},
        {"layers_to_transform": True},
    ],
)
def test_settings_that_no_adapter_has_are_named(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(LabError, match=f"adapter_config.json: .*{next(iter(config))}"):
        Adapter.read(write_adapter(tmp_path / "adapter", **config))


def test_a_rank_that_is_a_number_and_not_whole_is_not_called_no_number(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"r is 8\.0, no whole number"):
        Adapter.read(write_adapter(tmp_path / "adapter", r=8.0))
