"""What lies in a model folder beside its weights and belongs into a merge of it: config, tokenizer, templates, code, and folders that
these point to.

A folder of sentence-transformers keeps its pooling in `1_Pooling/`, which modules.json names: without it engines pool otherwise, and say
nothing. Folders are carried where a JSON file of the model names them, and those that transformers looks for by itself.

Covers: what is carried, what is left, what is named and is not there. Does not cover: the weights, hidden files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ..models.adapter_folders import CONFIG
from ..models.headers import INDEX, Weights
from .findings import LOOK, Finding

RECORD, JOURNAL = "labkit-merge.json", "labkit-merge.partial.json"
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".index.json")
LEFT_BEHIND = (RECORD, JOURNAL, "labkit.manifest.json", "README.md", "loss.json", "training.json", CONFIG)
"""Files of the base that say of themselves what the merged folder is not; with adapter_config.json transformers looks for an adapter."""
LOOKED_FOR = ("additional_chat_templates", "custom_generate")
"""Folders that transformers reads by their names (5.19.0)."""


def files(base: Path) -> dict[str, Path]:
    """Relative name -> file, of everything that a merge of `base` gets besides weights and index."""
    found = {path.name: path for path in _visible(base) if path.is_file() and _companion(path)}
    for folder in _folders(base):
        found |= {path.relative_to(base).as_posix(): path for path in sorted((base / folder).rglob("*")) if path.is_file()}
    return found


def findings(base: Weights) -> Iterator[Finding]:
    """What the base has and a merge would not, to look at."""
    folder = base.folder
    lost = [name for name in _named_modules(folder) if not (folder / name).is_dir()]
    if lost:
        what = f"modules.json names {', '.join(lost)}, which the base has not"
        breaks = "Engines then pool in their own way, without an error."
        yield Finding("folders", what, folder.name, breaks, "Download the base again, with its sub-folders.", LOOK)
    own = {file.name for file in base.files} | {INDEX}
    others = [path.name for path in _visible(folder) if path.is_file() and path.suffix in WEIGHT_SUFFIXES and path.name not in own]
    if others:
        what = f"the base has files of weights that are not its model's: {', '.join(others)}"
        yield Finding("left out", what, folder.name, "A merge leaves them out.", "Copy them into the result if it needs them.", LOOK)


def _folders(base: Path) -> list[str]:
    """Sub-folders that belong to the model, by their relative names."""
    there = [path.name for path in _visible(base) if path.is_dir()]
    words = {word for file in base.glob("*.json") if not file.name.endswith(".index.json") for word in _words(file)}
    code = any(name.endswith(".py") for name in (path.name for path in _visible(base)))
    return [
        name
        for name in there
        if name in LOOKED_FOR or name in words or (code and (base / name / "__init__.py").is_file()) or name in _named_modules(base)
    ]


def _named_modules(base: Path) -> list[str]:
    """The first folders of the paths in modules.json, those inside the base."""
    content = _read(base / "modules.json")
    paths = [PurePosixPath(str(row.get("path") or "")) for row in content if isinstance(row, dict)] if isinstance(content, list) else []
    return [path.parts[0] for path in paths if path.parts and not path.is_absolute() and ".." not in path.parts]


def _words(file: Path) -> Iterator[str]:
    """First parts of the strings in a small JSON file that may be paths."""
    if file.stat().st_size > 2**20:  # a tokenizer's vocabulary names no folders
        return
    waiting = [_read(file)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value.values()]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and value and len(value) < 200:
            yield value.removeprefix("./").partition("/")[0]


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _visible(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]


def _companion(path: Path) -> bool:
    return not path.name.endswith(WEIGHT_SUFFIXES) and path.name not in LEFT_BEHIND
