"""Which bytes of a model are on disk, whole files and partial ones, and nothing else that lies in the same folder.

A partial file counts for the file whose client would go on from it, and only the longest one; files of the reader's own, of older
clients and of other revisions count for nothing. Covers: where the three clients keep what they have not finished (huggingface_hub 2.4,
modelscope-hub 0.5, git-lfs 3.3). Does not cover: whether the bytes are right (`models.manifests`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..models.listing import RemoteFile


class Arrivals:
    """The bytes of one model below `root`. `folder` is where its files lie or will lie, None where the client has not said yet."""

    def __init__(self, source: str, root: Path, folder: Path | None, by_path: bool) -> None:
        self.source, self.root, self.folder, self.by_path = source, root, folder, by_path

    def bytes(self, files: Iterable[RemoteFile]) -> int:
        """Bytes of `files` that are there, whole or partial; no file counts for more than its size."""
        names = self._unfinished()
        return sum(min(file.size, max(self._whole(file), self._partial(file, names))) for file in files)

    def partial(self, files: Iterable[RemoteFile]) -> int:
        """Bytes of `files` in partial files alone."""
        names = self._unfinished()
        return sum(min(file.size, self._partial(file, names)) for file in files)

    def _whole(self, file: RemoteFile) -> int:
        return _size(self.folder / file.path) if self.folder else 0

    def _partial(self, file: RemoteFile, names: dict[str, int]) -> int:
        if self.source == "modelscope":
            place = (self.folder or self.root / "snapshots" / "master") / file.path
            parts = sum(_size(part) for part in _parts(place))
            return max(_size(place.with_name(place.name + ".incomplete")), parts)
        return max((size for name, size in names.items() if file.hash and name.startswith(file.hash)), default=0)

    def _unfinished(self) -> dict[str, int]:
        """Files that are named by a hash, and their bytes: the hash, then an ending."""
        if self.source == "huggingface":
            place = self.root / ".cache" / "huggingface" / "download" if self.by_path else self.root / "blobs"
            return {_by_hash(path.name): _size(path) for path in _below(place) if self._is_hugging_face_s(path)}
        if self.source == "git-lfs":
            store = self.root / ".git" / "lfs"
            return {path.name: _size(path) for part in ("incomplete", "objects", "tmp") for path in _below(store / part)}
        return {}

    def _is_hugging_face_s(self, path: Path) -> bool:
        return path.name.endswith(".incomplete") or not self.by_path


def _by_hash(name: str) -> str:
    """`<short hash of the path>.<etag>.<random>.incomplete` by path, `<etag>.<random>.incomplete` by id: from the etag on."""
    parts = name.split(".")
    return ".".join(parts[-3:]) if len(parts) >= 3 else name


def _parts(place: Path) -> list[Path]:
    """What ModelScope's client keeps of a file that it fetches in several ranges: `<file>_<first byte>_<last byte>`."""
    try:
        names = os.listdir(place.parent)
    except OSError:
        return []
    stem = place.name + "_"
    return [place.with_name(name) for name in names if name.startswith(stem) and name[len(stem) :].replace("_", "").isdigit()]


def _below(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names)


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0  # not there, or renamed meanwhile
