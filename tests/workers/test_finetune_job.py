"""A training is asked for and answered in types: what one side writes as JSON, the other reads as the same."""

import json
from dataclasses import asdict

import pytest

from labkit.workers.finetune_job import FinetuneRequest, FinetuneSettings

SETTINGS = FinetuneSettings(
    steps=3, batch=2, learning_rate=1e-4, rank=8, alpha=16.0, targets=["q_proj"], dropout=0.0, max_length=64, four_bit=False, seed=0
)
REQUEST = FinetuneRequest("base", "draft", [[{"role": "user", "content": "你好"}, {"role": "assistant", "content": "Hi"}]], SETTINGS)


def test_the_request_survives_the_way_to_the_other_side() -> None:
    assert FinetuneRequest.from_fields(json.loads(json.dumps(asdict(REQUEST)))) == REQUEST


@pytest.mark.parametrize("place", [(), ("settings",)])
def test_a_field_that_one_side_does_not_know_is_an_error(place: tuple[str, ...]) -> None:
    fields = asdict(REQUEST)
    (fields["settings"] if place else fields)["warm_up"] = 1
    with pytest.raises(TypeError, match="warm_up"):
        FinetuneRequest.from_fields(fields)
