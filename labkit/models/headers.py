"""What lies in safetensors files, read from their headers alone: names, types, shapes and byte ranges; and whole model folders.

Covers: one file (`read_header`), an index held against its shards (`Index`), a folder with its config (`Weights`). Does not cover:
the numbers themselves, which only scripts of `labkit.workers` read, and hashes (`manifests`). Standard library only.
Format: 8 bytes length of the header, the header as JSON, then the data that `data_offsets` cut up.
(https://huggingface.co/docs/safetensors, "Format".) Used by notebook 02 through `manifests`, by notebook 06 through `labkit.lora`.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from ..common.errors import LabError, VerificationError
from . import class_defaults
from .other_folders import no_config, no_safetensors

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
HEADER_LIMIT = 100 * 2**20
"""Largest safetensors header that the format allows, in bytes."""
ITEM_BYTES = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
ITEM_BYTES |= {"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}
"""Types of the format whose items fill whole bytes."""
OTHER_FORMATS = {
    b"version https://git-lfs": "it is a pointer of Git LFS, not the file itself, which git lfs pull fetches",
    b"<!doctype html": "it is a web page: a login, an error or a mirror's notice came in its place",
    b"<html": "it is a web page: a login, an error or a mirror's notice came in its place",
    b"pk\x03\x04": "it is a zip, as torch.save writes (a Python pickle), and no safetensors file",
    b"gguf": "it is GGUF, the format of llama.cpp, and no safetensors file",
}
"""First bytes, in small letters -> what came in place of safetensors."""
NOT_THE_MODEL = ("adapter_model.safetensors", "consolidated.safetensors")
WRITERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""Ends of the names of architectures that have an output head."""
SHARD = re.compile(r".*-\d+-of-(\d+)\.safetensors")
HEADS = ("lm_head", "embed_out", "output_layer", "output")
"""What architectures call it."""


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies: `dtype` as the format writes it ("BF16"), `offset` (from the start of the file) and `bytes`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.name} ({self.dtype}, {' x '.join(map(str, self.shape))}) in {self.file.name}"


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of one file by name, in the file's order, after its offsets were held against its length.

    Raises `ValueError` in a few words for a file that is cut off or damaged, `OSError` for one that cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if len(head) < 8 or length > min(HEADER_LIMIT, size - 8):
            raise ValueError(_other_format(head + stream.read(64)) or f"header of {length} bytes in a file of {size}")
        header = json.loads(stream.read(length))
    try:
        header.pop("__metadata__", None)
        tensors = {name: _tensor(name, row, path, 8 + length) for name, row in header.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the header is not as the format has it: {error!r}") from None
    end = max((tensor.offset + tensor.bytes for tensor in tensors.values()), default=8 + length)
    if end != size:
        raise ValueError(
            f"it is cut off, its tensors end at byte {end} of {size}" if end > size else f"tensors end at byte {end} of {size}"
        )
    return dict(sorted(tensors.items(), key=lambda item: item[1].offset))


def _other_format(head: bytes) -> str:
    """What a file that begins so is instead; "" where that is not known."""
    return next((what for start, what in OTHER_FORMATS.items() if head.lstrip().lower().startswith(start)), "")


def _tensor(name: str, row: Mapping[str, Any], path: Path, start: int) -> Tensor:
    first, last = row["data_offsets"]
    tensor = Tensor(name, row["dtype"], tuple(row["shape"]), path, start + first, last - first)
    item = ITEM_BYTES.get(tensor.dtype)
    if item and math.prod(tensor.shape) * item != tensor.bytes:
        raise ValueError(f"{name} has {tensor.bytes} bytes, not those of its shape")
    return tensor


@dataclass(frozen=True)
class Index:
    """The index of a model folder, tensor name -> file name, to hold against what lies there; `files` None where there is none."""

    folder: Path
    files: Mapping[str, str] | None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the index of `folder`. Raises one of `UNREADABLE` for one that cannot be used."""
        if not (folder / INDEX).exists():
            return cls(folder, None)
        named = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        return cls(folder, {str(tensor): str(file) for tensor, file in named.items()})

    def unindexed(self, shards: Iterable[str]) -> list[str]:
        """Those of `shards`, by file name, that need an index which is not there."""
        return [] if self.files is not None else sorted({shard for shard in shards if "-of-" in shard})

    def absent(self) -> list[str]:
        """Files that it names and that are not there."""
        return sorted(file for file in {*(self.files or {}).values()} if not (self.folder / file).is_file())

    def astray(self, shards: Mapping[str, str]) -> list[str]:
        """Tensors that are not in the file that it names; `shards` says in which each was found, by tensor name."""
        return [tensor for tensor, file in (self.files or {}).items() if shards.get(tensor) != file]


UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)
"""What reading an index raises when it is cut off, no JSON, or not as the format has it."""


@dataclass(frozen=True)
class Weights:
    """A model folder as its config, its index and the headers of its safetensors files say it is. No number is read."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @classmethod
    def read(cls, folder: Path | str) -> Self:
        """Read config.json, the index and every header of `folder`.

        Raises `LabError` for a folder that is no model, `VerificationError` naming the file for a missing shard, a cut-off or
        damaged file, or an index that does not fit its shards.
        """
        folder = Path(folder).expanduser().absolute()
        if not (folder / "config.json").is_file():
            raise LabError(*no_config(folder))
        config = read_json(folder / "config.json")
        index = _index(folder)
        tensors: dict[str, Tensor] = {}
        for name in _files(index):
            header = _header_of(folder / name)
            if twice := next((tensor for tensor in header if tensor in tensors), None):
                first = tensors[twice].file.name
                cause = f"{folder} holds {twice} twice, in {first} and in {name}: these files are of two models."
                raise VerificationError(cause, "Leave one model's files in the folder: download or make it again into an empty one.")
            tensors |= header
        astray = index.astray({name: tensor.file.name for name, tensor in tensors.items()})
        if astray:
            cause = f"{len(astray)} tensors are not in the shard that {folder / INDEX} names, first {astray[0]}."
            raise VerificationError(cause, "Download or make this model again.")
        return cls(folder, config, tensors)

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The safetensors files, by name."""
        return tuple(sorted({tensor.file for tensor in self.tensors.values()}))

    @property
    def bytes(self) -> int:
        """The size of all safetensors files."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def tied(self) -> bool:
        """Whether input embedding and output head are one tensor: by config.json, by its class's default, else where no head is stored."""
        architectures = [str(name) for name in self.config.get("architectures") or ()]
        if architectures and not any(name.endswith(WRITERS) for name in architectures):
            return False  # an embedding model, a classifier: there is no such head
        said = class_defaults.tied(self.config)
        return said if said is not None else self.headless

    @property
    def headless(self) -> bool:
        """Whether this is a model that writes text, and no head is stored: then its head is the embedding."""
        writes = any(str(name).endswith(WRITERS) for name in self.config.get("architectures") or ())
        return writes and not any(name.split(".")[-2:][0] in HEADS and name.count(".") <= 2 for name in self.tensors)

    @property
    def text_config(self) -> Mapping[str, Any]:
        """The language model's part of a config that has several."""
        return class_defaults.text_part(self.config)


def read_json(path: Path, *, missing: str = "") -> dict[str, Any]:
    """A JSON object from `path`. Raises `LabError` that names it: with `missing` where it is not there."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LabError(missing or f"{path} does not exist.", "Check the folder's name.") from None
    except (OSError, ValueError) as error:
        raise LabError(f"{path} cannot be read: {error}", "Replace it by a whole copy.") from None
    if not isinstance(content, dict):
        raise LabError(f"{path} holds no JSON object.", "Replace it by a whole copy.")
    return content


def _index(folder: Path) -> Index:
    try:
        return Index.read(folder)
    except UNREADABLE as error:
        raise VerificationError(f"{folder / INDEX} cannot be read: {error!r}", "Download or make this model again.") from None


def _files(index: Index) -> list[str]:
    """The names of the files that hold the model; each of them is there."""
    folder = index.folder
    there = sorted(path.name for path in folder.glob("*.safetensors") if path.name not in NOT_THE_MODEL)
    if index.files is not None:
        names = sorted({*index.files.values()})
    elif (folder / SINGLE).exists():
        names = [SINGLE]
    else:
        names = there
        if unindexed := index.unindexed(names):
            cause = f"{INDEX} is missing in {folder}, which its {len(unindexed)} shards need."
            raise VerificationError(cause, "Download or make this model again.")
    if not names:
        raise LabError(*no_safetensors(folder))
    if absent := index.absent():
        raise VerificationError(
            f"{', '.join(str(folder / name) for name in absent)} is missing; {INDEX} names it.",
            "Run labkit.download again: it fetches what is missing.",
        )
    _require_one_model(folder, names, there)
    return names


def _require_one_model(folder: Path, names: list[str], there: list[str]) -> None:
    """Of a whole model beside shards, transformers reads the whole one and engines the shards, or both."""
    shards = [name for name in {*names, *there} if SHARD.fullmatch(name)]
    counts = sorted({match[1] for name in names if (match := SHARD.fullmatch(name))})
    if SINGLE in there and shards:
        cause = f"{folder} holds two models: {SINGLE}, and shards such as {min(shards)}. transformers reads the first, engines the others."
        raise LabError(cause, f"Move the one that you do not mean out of the folder (with the shards goes {INDEX}).")
    if len(counts) > 1:
        cause = f"{INDEX} in {folder} names shards of {' and of '.join(counts)}: of two savings."
        raise VerificationError(cause, "Download or make this model again.")


def _header_of(path: Path) -> dict[str, Tensor]:
    try:
        return read_header(path)
    except (ValueError, OSError) as error:
        raise VerificationError(f"{path} cannot be read as safetensors: {error}.", "Download or make this file again.") from None
