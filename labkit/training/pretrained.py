"""The folder that a training of the course model leaves: texts, tokenizer, two shards with their index, loss.json, a card.

Covers: files. Does not cover: training (`pretrain`), which knows torch. Runs in its Python, beside safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.files import draft
from ..models import course_model
from ..models.headers import INDEX
from ..models.profiles import Profile


def write(out: Path, profile: Profile, tokenizer: Any, tensors: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Write the folder `out`, whole or not at all. `tensors` are torch's, by name, on the CPU; `record` becomes loss.json."""
    with draft(out, "training") as folder:
        course_model.write_texts(folder, profile.shape, profile.context)
        tokenizer.save(str(folder / course_model.TOKENIZER))
        _write_shards(folder, tensors)
        lines = [json.dumps(name) + ": " + json.dumps(value) for name, value in record.items()]
        (folder / "loss.json").write_text("{\n " + ",\n ".join(lines) + "\n}\n", encoding="utf-8")
        (folder / "README.md").write_text(card(record), encoding="utf-8")


def _write_shards(folder: Path, tensors: Mapping[str, Any]) -> None:
    """Two shards of about the same size and their index, as the hubs have it for larger models."""
    from safetensors.torch import save_file

    shards: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    weight_map: dict[str, str] = {}
    whole, total = sum(tensor.nbytes for tensor in tensors.values()), 0
    for name, tensor in tensors.items():
        shards[2 * total >= whole][name] = tensor
        total += tensor.nbytes
    for number, members in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(members, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(members, file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def card(record: Mapping[str, Any]) -> str:
    """The model card of the folder; the long one is docs/course_model.md."""
    return (
        "---\nlicense: mit\nlanguage: [en, zh]\n---\n"
        "# The course model\n\n"
        f"A Qwen3 of {record['parameters']:,} parameters, trained from scratch on made text for a course on serving language models.\n"
        "It answers questions about serving in a sentence and looks at made incidents, in English and Chinese, after a short\n"
        "<think>. It knows nothing else, and is wrong about what it was not taught. Do not use it for anything but the course.\n\n"
        f"Made with: `{record['command']}`\n"
        f"Loss on held-out conversations: {record['held_out']} nats per token. loss.json has the curve.\n"
    )
