"""A model folder without a manifest, brought by git, a browser or rsync: what can be found wrong without a hub's list.

Covers: headers and lengths of safetensors files, the index, config and tokenizer, files that are something else (pointers, web pages),
leftovers of clients that did not finish. Does not cover: whether the bytes are those that the author uploaded, which only a hub's
hashes tell, and which `labkit.download` into the same folder asks for. Used by notebook 02 through `labkit.verify`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .contents import HEAD_BYTES, POINTER, recognise
from .headers import INDEX, UNREADABLE, Index, read_header
from .listing import path_fault

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json", "qwen.tiktoken")
WEIGHTS = (".bin", ".pth", ".pt", ".gguf")
UNFINISHED = (".incomplete", ".part", ".crdownload", ".download", ".aria2", ".parallel_tmp", "!qb", ".partial", ".tmp")
"""Ends of names that clients and browsers give to a file they have not finished."""
CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json", INDEX)


@dataclass
class Findings:
    """What is wrong, one sentence each, and which checks could not be made."""

    tensors: int = 0
    wrong: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)


def inspect(folder: Path) -> Findings:
    """What is wrong with the model in `folder`, as far as its own files tell. Reads headers and small files; never a weight."""
    found = Findings()
    strange = dict(_strange(folder))
    found.wrong += strange.values()
    found.wrong += _unfinished(folder)
    _configs(folder, found, strange)
    shards = _shards(folder, found, strange)
    _index(folder, found, shards, strange)
    if not any((folder / name).is_file() for name in TOKENIZERS):
        found.missing.append(f"a tokenizer ({', '.join(TOKENIZERS[:3])})")
    found.unchecked.append("hashes: there is no list of a hub to hold the bytes against; a changed byte inside a tensor is not seen")
    found.unchecked.append("completeness: files that no other file names may be missing unseen")
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _strange(folder: Path) -> Iterator[tuple[str, str]]:
    """Files that are something else than their name says: (name, sentence)."""
    for path in _files(folder):
        if path.suffix.lower() in (".html", ".htm", ".md"):
            continue
        try:
            with path.open("rb") as stream:
                content = recognise(stream.read(HEAD_BYTES))
        except OSError as error:
            yield path.name, f"{path.name} cannot be read: {error.strerror}"
            continue
        if content:
            how = ": `git lfs pull` in a clone fetches it" if content.kind == POINTER else ": download it again"
            yield path.name, f"{path.name} is {content.title}{how}"


def _unfinished(folder: Path) -> Iterator[str]:
    for path in _files(folder):
        ending = next((ending for ending in UNFINISHED if path.name.lower().endswith(ending)), "")
        if ending:
            yield f"{path.name} is what a client left that did not finish"


def _configs(folder: Path, found: Findings, strange: dict[str, str]) -> None:
    for name in CONFIGS:
        path = folder / name
        if not path.is_file():
            if name == "config.json":
                found.missing.append(name)
            continue
        if name in strange:
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            size = path.stat().st_size
            found.wrong.append(f"{name} is {'empty' if not size else f'no whole JSON ({error})'}")
            continue
        if not isinstance(content, dict):
            found.wrong.append(f"{name} holds no JSON object")
        elif name == "config.json" and not (content.get("model_type") or content.get("architectures")):
            found.wrong.append(f"{name} names no model_type: it is the config of something else")


def _shards(folder: Path, found: Findings, strange: dict[str, str]) -> dict[str, str]:
    """Tensor -> file, of all files that can be read."""
    shards: dict[str, str] = {}
    files = sorted(folder.glob("*.safetensors"))
    for path in files:
        if path.name in strange:
            continue
        if not path.is_file():
            what = f"a link to {os.readlink(path)}, which is not there" if path.is_symlink() else "a folder"
            found.wrong.append(f"{path.name} is {what}")
            continue
        if not path.stat().st_size:
            found.wrong.append(f"{path.name} is empty")
            continue
        try:
            for tensor in read_header(path):
                if tensor in shards:
                    found.wrong.append(f"{tensor} is in {shards[tensor]} and in {path.name}: are they two models?")
                    break
                shards[tensor] = path.name
        except (ValueError, OSError) as error:
            found.wrong.append(f"{path.name} is cut off or damaged: {error}")
    found.tensors = len(shards)
    if not files:
        others = [path.name for path in _files(folder) if path.suffix in WEIGHTS]
        if others:
            found.unchecked.append(
                f"weights: {', '.join(others[:3])} can be read only by running what is in them; only safetensors are checked"
            )
        else:
            found.missing.append("weights (*.safetensors)")
    return shards


def _index(folder: Path, found: Findings, shards: dict[str, str], strange: dict[str, str]) -> None:
    if INDEX in strange:
        return
    try:
        index = Index.read(folder)
    except UNREADABLE as error:
        if not any(sentence.startswith(INDEX) for sentence in found.wrong):
            found.wrong.append(f"{INDEX} cannot be used: {error!r}")
        return
    if index.files is None:
        _without_index(folder, found, shards)
        return
    if odd := [name for name in index.files.values() if path_fault(name)]:
        found.wrong.append(f"{INDEX} names {odd[0]!r}, which cannot be a file of a model")
        return
    absent = index.absent()
    found.missing += absent
    damaged = {sentence.split(" ")[0] for sentence in found.wrong}
    astray = [tensor for tensor in index.astray(shards) if index.files[tensor] not in {*absent, *damaged}]
    if astray:
        found.wrong.append(f"{len(astray)} tensors are not in the file that {INDEX} names, first {astray[0]} in {index.files[astray[0]]}")
    elif not absent and not damaged & {*index.files.values()} and (more := set(shards) - set(index.files)):
        found.wrong.append(f"{len(more)} tensors stand in no {INDEX}, first {min(more)}: are files of another model here?")


def _without_index(folder: Path, found: Findings, shards: dict[str, str]) -> None:
    names = [path.name for path in folder.glob("*.safetensors")]
    numbered = [match for name in names if (match := re.fullmatch(r"(.+)-(\d{5})-of-(\d{5})\.safetensors", name))]
    if not numbered:
        found.unchecked.append(f"tensors: there is no {INDEX} to say which there must be")
        return
    found.missing.append(f"{INDEX}, which {len(numbered)} shards need")
    for stem, total in sorted({(match[1], match[3]) for match in numbered}):
        wanted = (f"{stem}-{number:05d}-of-{total}.safetensors" for number in range(1, int(total) + 1))
        found.missing += [name for name in wanted if name not in names]


def listed(sentences: Iterable[str]) -> str:
    """Several findings in one line."""
    return "; ".join(sentences)
