"""Whether a folder holds a model that can be trained, played or served, told before anything is done with it.

Covers: config, index, headers of the shards (`headers`), a tokenizer. Does not cover: whether it is what a hub has (`manifests`),
adapters (`adapter`). Used by notebook 06 through `labkit.lora`, `training.finetune` and `evaluation.offline`.
"""

from __future__ import annotations

from pathlib import Path

from ..common.errors import SettingError
from .headers import Weights

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""One of these must be there: weights without a tokenizer can be neither trained nor served."""


def require_model(folder: str | Path) -> Path:
    """`folder`, absolute and with links followed. Raises `LabError` children that name the file which is missing or damaged."""
    chosen = Path(folder).expanduser().resolve()
    if not chosen.is_dir():
        raise SettingError(
            f"{chosen} is not there.", "Give the folder of a made or merged model, or fetch a course model: labkit.download (notebook 02)."
        )
    if (chosen / "adapter_config.json").is_file() and not (chosen / "config.json").is_file():
        raise SettingError(f"{chosen} is an adapter, not a model.", "Merge it first: labkit.lora.merge(base, adapter, out).")
    Weights.read(chosen)
    if not any((chosen / file).is_file() for file in TOKENIZERS):
        raise SettingError(
            f"{chosen} has no tokenizer ({', '.join(TOKENIZERS)}).", "Copy the tokenizer's files from the model it came from."
        )
    return chosen
