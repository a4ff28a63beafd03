"""A folder that is to hold an adapter, and what it holds instead: checkpoints, named adapters, shards, another tool's format.

Covers: adapter_config.json and whether PEFT wrote it, the next step where something is missing. Does not cover: the tensors (`adapter`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.errors import LabError

CONFIG = "adapter_config.json"
WEIGHTS, PICKLE = "adapter_model.safetensors", "adapter_model.bin"
MOST_SHOWN = 4
JOIN = (
    'One file of several: python -c "import sys; from pathlib import Path; from safetensors.torch import load_file, save_file; '
    "save_file({k: v for f in sorted(Path(sys.argv[1]).glob('adapter_model-*-of-*.safetensors')) for k, v in load_file(f).items()}, "
    "Path(sys.argv[1], 'adapter_model.safetensors'))\" FOLDER"
)
JOIN_PICKLES = (
    'one file of several, with a Python that has torch: python -c "import sys, torch; from pathlib import Path; '
    "torch.save({k: v for f in sorted(Path(sys.argv[1]).glob('adapter_model-*-of-*.bin')) "
    "for k, v in torch.load(f, map_location='cpu', weights_only=True).items()}, Path(sys.argv[1], 'adapter_model.bin'))\" FOLDER"
)
NUMBERS: dict[str, tuple[type | tuple[type, ...], str]] = {"r": (int, "no whole number"), "lora_alpha": ((int, float), "no number")}
TABLES = ("rank_pattern", "alpha_pattern")
LISTS = ("modules_to_save", "target_modules", "exclude_modules", "target_parameters", "layers_pattern")
EXPRESSIONS = ("target_modules", "exclude_modules")
"""A string in these is a regular expression; in the two below each entry becomes a part of one."""
PARTS = ("layers_pattern", "modules_to_save")


def require_adapter(folder: Path) -> None:
    """Raises `LabError` for a folder without adapter_config.json; it says what the folder holds instead."""
    if (folder / CONFIG).is_file():
        return
    if not folder.is_dir():
        raise LabError(f"{folder} is not there." if not folder.exists() else f"{folder} is a file.", f"Name the folder with {CONFIG}.")
    below = adapters_below(folder)
    if below:
        raise LabError(
            f"{folder} is no adapter folder: it has no {CONFIG}; there are adapters below it: {_listed(below)}.",
            f"Name one of them: {folder / below[-1]}.",
        )
    if (folder / "config.json").is_file():
        raise LabError(f"{folder} is no adapter folder: it has no {CONFIG}; it has a model's config.json.", _NAME_IT)
    raise LabError(f"{folder} is no adapter folder: it has no {CONFIG}.", _NAME_IT)


_NAME_IT = f"Name the folder that training wrote {CONFIG} into."


def no_weights(folder: Path) -> LabError:
    """What to say of an adapter folder with neither of the two files."""
    cause = f"{folder} has neither {WEIGHTS} nor {PICKLE}"
    if shards := sorted(path.name for path in folder.glob("adapter_model-*-of-*.safetensors")):
        missing = _missing_shards(shards)
        if missing:
            cause = f"{folder} holds an adapter in shards, and not all of them: missing {_listed(missing)}"
            return LabError(f"{cause}.", "Copy the adapter again, whole.")
        cause = f"{folder} holds its adapter in {len(shards)} shards ({shards[0]} ...); PEFT and both engines read {WEIGHTS}"
        return LabError(f"{cause}.", JOIN.replace("FOLDER", str(folder)))
    if (folder / "adapters.safetensors").is_file() or (folder / "adapters.npz").is_file():
        return LabError(
            f"{folder} is an adapter of MLX (adapters.safetensors): its matrices are named and laid out otherwise than PEFT's.",
            "Merge it where it was trained: mlx_lm.fuse --model BASE --adapter-path ADAPTER --save-path OUT.",
        )
    if below := adapters_below(folder):
        return LabError(f"{cause}; there are adapters below it: {_listed(below)}.", f"Name one of them: {folder / below[-1]}.")
    if pickles := sorted(path.name for path in folder.glob("adapter_model-*-of-*.bin")):
        return LabError(
            f"{folder} holds its adapter in {len(pickles)} pickles ({pickles[0]} ...); PEFT and both engines read {WEIGHTS} or {PICKLE}.",
            f"If you trust whoever made them, {JOIN_PICKLES.replace('FOLDER', str(folder))} (weights_only lets only tensors through).",
        )
    if others := sorted(path.name for pattern in ("*.safetensors", "*.bin", "*.pt") for path in folder.glob(pattern)):
        return LabError(f"{cause}; it has {_listed(others)}.", "Name the folder that training wrote, with the weights beside their config.")
    return LabError(f"{cause}.", "Name the folder that training wrote, or the right checkpoint in it.")


def adapters_below(folder: Path) -> list[str]:
    """Folders in `folder`, one or two levels down, that are adapters; checkpoints by their step."""
    found = [path.parent.relative_to(folder).as_posix() for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{CONFIG}")]
    return sorted(found, key=lambda name: (int(number[0]) if (number := re.findall(r"\d+$", name)) else -1, name))


def not_of_peft(config: Mapping[str, Any]) -> str:
    """Why `config` is no configuration of PEFT's, or ""."""
    if "peft_type" not in config and ("fine_tune_type" in config or "lora_parameters" in config):
        return "another tool's configuration (MLX), not PEFT's."
    for name, (kind, wrong) in NUMBERS.items():
        value = config.get(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            return f"{name} is {value!r}, {wrong}."
    for name in TABLES:
        if not isinstance(config.get(name) or {}, dict) or not all(_number(value) for value in (config.get(name) or {}).values()):
            return f"{name} is no table of numbers: {config[name]!r}."
        broken = next((pattern for pattern in config.get(name) or {} if not _compiles(pattern)), None)
        if broken is not None:
            return f"{name} has a key that is no regular expression: {broken!r}."
    for name in LISTS:
        value = config.get(name)
        if not (value is None or isinstance(value, str) or (isinstance(value, list) and all(isinstance(entry, str) for entry in value))):
            return f"{name} is neither a list of names nor one string: {value!r}."
    layers = config.get("layers_to_transform")
    if not (layers is None or _layer(layers) or (isinstance(layers, list) and all(map(_layer, layers)))):
        return f"layers_to_transform is neither the number of a layer nor a list of them: {layers!r}."
    return _broken_expression(config)


def _broken_expression(config: Mapping[str, Any]) -> str:
    for name in (*EXPRESSIONS, *PARTS):
        value = config.get(name)
        if name in EXPRESSIONS and not isinstance(value, str):
            continue
        entries = [value] if isinstance(value, str) else value or ()
        broken = next((entry for entry in entries if not _compiles(entry)), None)
        if broken is not None:
            return f"{name} is no regular expression, which PEFT takes it for: {broken!r}."
    return ""


def _layer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _missing_shards(names: list[str]) -> list[str]:
    """Shards that the others' "of" asks for; names of more than one count are of two savings."""
    wanted: set[str] = set()
    for name in names:
        stem, _, count = name.removesuffix(".safetensors").rpartition("-of-")
        wanted |= (
            {f"{stem.rpartition('-')[0]}-{number:05d}-of-{count}.safetensors" for number in range(1, int(count) + 1)}
            if count.isdigit()
            else set()
        )
    return sorted(wanted - set(names))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:MOST_SHOWN]) + (f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else "")
