"""LLaMA-Factory itself, with the course model: one training and one export."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from labkit import lora
from labkit.models import course_model
from labkit.models.profiles import profile
from labkit.training import llamafactory

from .conftest import weights

REPLY = '<think>\nThe logs say {0}.\n</think>\n\n{{"root_cause": "{0}"}}'
CONVERSATIONS = [
    [
        {"role": "system", "content": "You are on call. 你 值班。"},
        {"role": "user", "content": f"Incident {number}: {cause} in the logs, requests wait."},
        {"role": "assistant", "content": f"It looks like {cause}."},
        {"role": "user", "content": "JSON only."},
        {"role": "assistant", "content": REPLY.format(cause)},
    ]
    for number in range(12)
    for cause in ("kv_cache_exhausted", "disk_full")
]


@pytest.fixture(scope="module")
def place(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llamafactory")
    course_model.make(profile("tiny"), folder / "base")
    return folder


@pytest.fixture(scope="module")
def training(place: Path) -> llamafactory.FactoryTraining:
    return llamafactory.train(place / "base", CONVERSATIONS, place / "adapter", steps=12, batch=8, learning_rate=2e-3)


def test_it_learns_the_last_reply_as_given(training: llamafactory.FactoryTraining) -> None:
    assert len(training.losses) == 12 and training.losses[-1] < training.losses[0]
    reply = next(one[-1]["content"] for one in CONVERSATIONS if one[-1]["content"] in training.example.learnt)
    assert training.example.learnt.startswith(reply) and training.example.learnt.endswith("<|im_end|>")
    assert training.example.text.count("<|im_start|>") == 5 and "<think>" not in training.example.text.removesuffix(training.example.learnt)
    assert 0 < training.trainable < training.total / 10


def test_what_it_was_told_lies_with_what_it_made(training: llamafactory.FactoryTraining) -> None:
    assert yaml.safe_load((training.folder / "train.yaml").read_text()) == yaml.safe_load(training.yaml)
    assert not list(training.folder.glob("checkpoint-*")) and not list(training.folder.glob("*.bin"))


def test_its_export_is_the_merge(training: llamafactory.FactoryTraining, place: Path) -> None:
    assert lora.check(place / "base", training.folder)
    exported = llamafactory.export(place / "base", training.folder, place / "exported")
    merged = lora.merge(place / "base", training.folder, place / "merged")
    assert merged.changed == 7 * profile("tiny").shape.layers and weights(merged.folder) == weights(exported.folder)
