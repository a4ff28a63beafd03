"""The table of what config.json leaves out, held against the config classes of the vLLM environment's transformers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from labkit.models import class_defaults

pytestmark = pytest.mark.integration

ASK = """
import json, sys
from transformers import CONFIG_MAPPING

def value(config, name):
    try:
        return getattr(config, name, None)
    except Exception:  # a setting of single layers
        return None

found = {}
for model_type in json.loads(sys.argv[1]):
    try:
        config = CONFIG_MAPPING[model_type]()
    except Exception:  # not of this version, or nothing without its parts
        continue
    rope = value(config, "rope_parameters") or {}
    rope = rope.get("full_attention", rope)
    names = ("head_dim", "num_key_value_heads", "max_position_embeddings")
    found[model_type] = {"tied": value(config, "tie_word_embeddings"), "rope_theta": rope.get("rope_theta")}
    found[model_type].update({name: value(config, name) for name in names})
print(json.dumps(found))
"""


def test_each_row_is_what_the_class_takes(engine_pythons: dict[str, Path]) -> None:
    import tomllib

    table = tomllib.loads(class_defaults.TABLE.read_text())
    words = [str(engine_pythons["vllm"]), "-c", ASK, json.dumps([*table])]
    classes = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    differ = [
        f"{model_type}.{name}: {row[name]}, the class has {classes[model_type][name]}"
        for model_type, row in table.items()
        if model_type in classes
        for name in row.keys() & classes[model_type].keys()
        if classes[model_type][name] not in (None, row[name])
    ]
    assert differ == [] and len(classes) > 300
