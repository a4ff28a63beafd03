"""What the client's process is asked to do and what it answers: typed on both sides, plain JSON between them.

Does not cover: doing it (`client`), asking for it (`downloads`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from labkit.models.listing import RemoteFile


@dataclass(frozen=True)
class Job:
    """What to fetch: `folder` None means by id, into the client's cache below `root`; `kept` are files already right.

    `revision` is the commit that was listed, "" for the newest; `patience` the seconds that a busy hub may still be waited for.
    """

    source: str
    model: str
    endpoint: str
    root: Path
    folder: Path | None
    files: tuple[RemoteFile, ...]
    kept: tuple[str, ...] = ()
    revision: str = ""
    patience: float = 0.0

    def as_request(self) -> dict[str, Any]:
        """The same as plain JSON."""
        return asdict(self) | {"root": str(self.root), "folder": str(self.folder) if self.folder else None}

    @classmethod
    def from_request(cls, request: Mapping[str, Any]) -> Job:
        """The job that `as_request` wrote."""
        fields = {**request, "root": Path(request["root"]), "folder": Path(request["folder"]) if request["folder"] else None}
        return cls(**fields | {"files": tuple(RemoteFile(**file) for file in request["files"]), "kept": tuple(request["kept"])})


@dataclass(frozen=True)
class Fetched:
    """Where the client left the model, and which commit that is ("" where it does not tell)."""

    folder: Path
    revision: str = ""

    def as_result(self) -> dict[str, Any]:
        """The same as plain JSON."""
        return {"folder": str(self.folder), "revision": self.revision}

    @classmethod
    def from_result(cls, result: Mapping[str, Any]) -> Fetched:
        """What `as_result` wrote."""
        return cls(Path(result["folder"]), str(result.get("revision", "")))
