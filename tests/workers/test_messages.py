"""Messages between two Pythons: through JSON and back, the same."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from labkit.workers.merge_job import MergeRequest, ShardJob, TensorChange, TensorData
from labkit.workers.messages import parse
from labkit.workers.offline_job import Dialogue, OfflineReply, OfflineRequest, OfflineResult, TaskRequest

PLACE = TensorData("x.safetensors", 8, 12, "BF16", (2, 3))
MESSAGES = [
    MergeRequest((ShardJob("a", "b/a", "c/a", 20, ((0, 8),), (TensorChange("w", PLACE, None, PLACE, PLACE, None, 1.5, True, False),)),)),
    OfflineRequest("model", "", TaskRequest((Dialogue(({"role": "user", "content": "?"},), "and?"),), (0.0, 0.7), 9, 2, 0)),
    OfflineResult(((OfflineReply("a", "b", 0.5, 9), OfflineReply("", "")), ())),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_was_sent(message: Any) -> None:
    assert parse(type(message), json.loads(json.dumps(asdict(message)))) == message


def test_a_field_too_many_and_one_too_few_are_errors() -> None:
    content = asdict(PLACE)
    with pytest.raises(KeyError, match="other"):
        parse(TensorData, {**content, "other": 1})
    del content["offset"]
    with pytest.raises(TypeError, match="offset"):
        parse(TensorData, content)


def test_a_tensor_is_a_matrix_whatever_its_shape() -> None:
    places = [TensorData("x", 0, 0, "F32", shape) for shape in ((), (5,), (2, 3), (2, 3, 4))]
    assert [(place.rows, place.columns) for place in places] == [(1, 1), (5, 1), (2, 3), (2, 12)]
