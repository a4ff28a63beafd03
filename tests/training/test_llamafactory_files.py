"""The files that LLaMA-Factory is driven by: what people read, and what it reads back."""

from __future__ import annotations

import yaml

from labkit.training import llamafactory_files


def test_the_yaml_is_for_people_and_is_read_back_equal() -> None:
    sections = {"model": {"model_name_or_path": "/模型/8B", "seed": 0}, "output": {"save_strategy": "no", "learning_rate": 1e-5}}
    text = llamafactory_files.yaml_text(sections, {"seed": 7, "packing": True})
    assert text == (
        "### model\nmodel_name_or_path: /模型/8B\nseed: 7\n\n### output\nsave_strategy: 'no'\nlearning_rate: 1.0e-05\n\n"
        "### more\npacking: true\n"
    )
    assert list(yaml.safe_load(text).items()) == [
        *({"model_name_or_path": "/模型/8B", "seed": 7, "save_strategy": "no", "learning_rate": 1e-5, "packing": True}).items()
    ]
