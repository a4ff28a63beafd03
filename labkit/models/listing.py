"""What a hub says a model consists of: paths, sizes and digests of its files, as data.

`labkit.hub.listings` asks a hub for it, `manifests` holds a folder against it, and the client of a download gets it as its request.
Used by notebook 02 through `labkit.download`, `labkit.preview` and `labkit.verify`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RemoteFile:
    """One file: path in the model folder, bytes, and its `digest` as "sha256:..." or "git:..." (blob id), "" if not told."""

    path: str
    size: int
    digest: str = ""


@dataclass(frozen=True)
class Listing:
    """All files of one model at one hub."""

    model: str
    files: tuple[RemoteFile, ...]

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(file.size for file in self.files)
