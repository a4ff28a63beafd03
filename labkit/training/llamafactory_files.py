"""The files that LLaMA-Factory is driven by: its YAML, and the conversations as it reads them.

Covers: settings under its names, the order and headings of its own examples. Does not cover: running it (`llamafactory`), which uses
this. Paths other than the base's are relative: the folder may be moved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from ..common import files
from ..common.errors import SettingError

DATA, DATASET = "data", "conversations"
SHARD_GB = 5
OWN = ("model_name_or_path", "dataset_dir", "dataset", "output_dir", "do_train", "stage")
"""Lines of the YAML that are labkit's."""


@dataclass(frozen=True)
class FactorySettings:
    """How to train, under labkit's names. `batch` is conversations at once on each GPU, `max_length` tokens; `targets` as one text."""

    rank: int
    alpha: int
    targets: str
    steps: int
    batch: int
    accumulate: int
    learning_rate: float
    max_length: int
    template: str | None
    four_bit: bool
    seed: int

    def require_positive(self) -> None:
        """Raise `SettingError` for a number that is not positive, or not whole where it must be."""
        for name in ("rank", "alpha", "steps", "batch", "accumulate", "learning_rate", "max_length"):
            value = getattr(self, name)
            if not value > 0 or (name != "learning_rate" and not isinstance(value, int)):
                form = "a positive number" if name == "learning_rate" else "a whole number, 1 or more"
                raise SettingError(f"{name} is {value!r}.", f"Give {form}.")


def require_further(more: Mapping[str, Any]) -> None:
    """Raise `SettingError` for lines of the YAML that are labkit's own."""
    if taken := [name for name in OWN if name in more]:
        raise SettingError(f"{', '.join(taken)}: labkit writes this itself.", "Use base=, conversations= and out=.")


def training_yaml(base: Path, settings: FactorySettings, more: Mapping[str, Any], *, gpu: bool) -> str:
    """What `llamafactory-cli train` reads."""
    quantised = {"quantization_bit": 4, "quantization_method": "bnb"} if settings.four_bit else {}
    sections = {
        "model": {"model_name_or_path": str(base), **quantised},
        "method": {
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "lora",
            "lora_rank": settings.rank,
            "lora_alpha": settings.alpha,
            "lora_target": "all" if settings.targets == "all-linear" else settings.targets,
        },
        "data": {
            "dataset_dir": DATA,
            "dataset": DATASET,
            **_template(settings.template),
            "cutoff_len": settings.max_length,
            "mask_history": True,
            "overwrite_cache": True,
        },
        "training": {
            "per_device_train_batch_size": settings.batch,
            "gradient_accumulation_steps": settings.accumulate,
            "max_steps": settings.steps,
            "learning_rate": settings.learning_rate,
            "lr_scheduler_type": "cosine",
            "bf16": True,
            "seed": settings.seed,
            **({} if gpu else {"use_cpu": True}),
        },
        "output": {"output_dir": ".", "save_strategy": "no", "logging_steps": 1, "report_to": "none"},
    }
    return yaml_text(sections, more)


def export_yaml(base: Path, adapter: Path, template: str | None) -> str:
    """What `llamafactory-cli export` reads."""
    model = {"model_name_or_path": str(base), "adapter_name_or_path": str(adapter), "finetuning_type": "lora", **_template(template)}
    export = {"export_dir": ".", "export_size": SHARD_GB, "export_device": "cpu", "export_legacy_format": False}
    return yaml_text({"model": model, "export": export}, {})


def yaml_text(sections: Mapping[str, Mapping[str, Any]], more: Mapping[str, Any]) -> str:
    """The settings as LLaMA-Factory's own examples write them: one a line, under headings. `more` wins over a line of the same name."""
    named = {name for lines in sections.values() for name in lines}
    blocks = {heading: {name: more.get(name, value) for name, value in lines.items()} for heading, lines in sections.items()}
    if added := {name: value for name, value in more.items() if name not in named}:
        blocks["more"] = added
    dump = partial(yaml.safe_dump, sort_keys=False, allow_unicode=True, width=1000)
    return "\n".join(f"### {heading}\n{dump(lines)}" for heading, lines in blocks.items())


def write_dataset(folder: Path, conversations: Sequence[list[dict[str, str]]]) -> None:
    """The conversations, and the file by which LLaMA-Factory finds and reads them ("sharegpt" is its name for lists of messages)."""
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}
    info = {DATASET: {"file_name": f"{DATASET}.json", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}}
    files.save(folder / "dataset_info.json", info)
    files.save(folder / f"{DATASET}.json", [{"messages": messages} for messages in conversations])


def _template(name: str | None) -> dict[str, str]:
    return {"template": name} if name else {}
