"""Whether a model folder is whole: held against the hub's list, and its safetensors read; the proof is a manifest file.

Covers: names, sizes, hashes (in threads), `labkit.manifest.json`, and what `headers` finds wrong with safetensors and their index.
A folder without a manifest is looked at by `bare_folders`, and the answer says which checks could not be made.
Does not cover: asking a hub (`labkit.hub.listings`), fetching (`labkit.hub.downloads`). Used by notebook 02 as `labkit.verify`.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from ..common.errors import VerificationError
from ..common.files import beside
from ..common.progress import Progress
from . import bare_folders
from .headers import INDEX, UNREADABLE, Index, read_header
from .listing import Listing, RemoteFile, path_fault
from .profiles import Profile, profiles
from .profiles import profile as find_profile

NAME = "labkit.manifest.json"
BLOCK = 8 * 2**20
UNWATCHED = 256 * 2**20
"""Bytes that are hashed in less than two seconds, which need no bar."""


@dataclass
class Verification:
    """What `verify` found. True when nothing is wrong; every list names files, relative to `folder`.

    `differences` says what was expected of a wrong file and what was found; `unchecked` which checks could not be made.
    """

    folder: Path
    files: int = 0
    bytes: int = 0
    tensors: int = 0
    seconds: float = 0.0
    hashed: bool = True
    missing: list[str] = field(default_factory=list)
    wrong_size: list[str] = field(default_factory=list)
    wrong_hash: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    differences: dict[str, str] = field(default_factory=dict)
    unchecked: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return not (self.missing or self.wrong_size or self.wrong_hash or self.unreadable)

    @property
    def wrong(self) -> list[str]:
        """Files that are there and must be fetched again."""
        return [*self.wrong_size, *self.wrong_hash]

    def lines(self) -> list[str]:
        """Four short lines that read the same for every whole model; more where there is more to say."""
        hashes = _verdict(self.wrong_hash, "match") if self.hashed else "not read (quick)"
        sizes = _verdict(self.wrong_size, "match")
        if self.unchecked:
            sizes = hashes = f"not compared (no {NAME})"
        what = "safetensors" if all(".safetensors" in sentence for sentence in self.unreadable) else "contents"
        lines = [
            f"files: {_verdict(self.missing, 'none missing that another names' if self.unchecked else 'complete', 'missing ')}",
            f"sizes: {sizes}",
            f"hashes: {hashes}",
            f"{what}: {_verdict(self.unreadable, 'readable')}",
        ]
        wrong = [f"{name}: {self.differences[name]}" for name in self.wrong if name in self.differences]
        return [*lines, *wrong, *(f"not checked: {what}" for what in self.unchecked)]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def error(self) -> VerificationError:
        """The same as an error, for callers that cannot go on."""
        parts = {"missing": self.missing, "of the wrong size": self.wrong_size, "with wrong bytes": self.wrong_hash, "": self.unreadable}
        told = {what: [self._told(name) for name in names] for what, names in parts.items() if names}
        faults = "; ".join(f"{what}: {', '.join(names)}" if what else "; ".join(names) for what, names in told.items())
        short = "The hub's own list or copy is not whole: try again later, or take another source."
        fix = short if self.unreadable else "Run labkit.download again: it fetches only what is wrong."
        return VerificationError(f"{self.folder} is not whole; {faults}.", fix)

    def _told(self, name: str) -> str:
        return f"{name} ({self.differences[name]})" if name in self.differences else name


def verify(model: str | Profile | Path = "auto", *, quick: bool = False) -> Verification:
    """Hold a downloaded model against its manifest, without any network; the result is True when nothing is wrong.

    `model` is a profile, its name, or a folder. `quick` compares sizes and times of change instead of hashes (ms instead
    of about a second per GB). A folder without a manifest, brought by git, a browser or rsync, is looked at as far as its own
    files tell, and `unchecked` says what that leaves open. Raises `VerificationError` for a folder that is not there.
    """
    folder = _folder(model)
    manifest = read(folder)
    if manifest is None:
        if not folder.is_dir():
            raise VerificationError(
                f"{folder} is not there: no model was downloaded to it.", "Run labkit.download first, or check the path."
            )
        return _bare(folder)
    if quick:
        return _quick(folder, manifest)
    return check(folder, listed(manifest), weights=manifest["weights"])


def _bare(folder: Path) -> Verification:
    started = time.monotonic()
    found = bare_folders.inspect(folder)
    files = [
        path for path in folder.rglob("*") if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    result = Verification(folder, len(files), sum(path.stat().st_size for path in files), found.tensors, hashed=False)
    result.missing, result.unreadable, result.unchecked = found.missing, found.wrong, found.unchecked
    if (folder / NAME).exists():
        result.unreadable.append(f"{NAME} cannot be read: run labkit.download again, it writes a new one")
    result.seconds = time.monotonic() - started
    return result


def check(folder: Path, listing: Listing, *, weights: bool = True, known: dict[str, str] | None = None) -> Verification:
    """Hold `folder` against `listing`: names, sizes, hashes, safetensors. `weights`: whether there must be any.

    `known` carries digests from call to call, by path, size and time of change, so that nothing is hashed twice.
    Shows progress. Leaves every file as it is.
    """
    started = time.monotonic()
    result = Verification(folder, files=len(listing.files), bytes=listing.bytes)
    there = _by_size(folder, listing, result)
    digests = _digests(folder, there, {} if known is None else known)
    result.wrong_hash = [f.path for f in there if f.digest and digests[f.path] != f.digest]
    result.differences |= {f.path: f"expected {f.digest}, found {digests[f.path]}" for f in there if f.path in result.wrong_hash}
    if not result.missing and not result.wrong:
        result.tensors, result.unreadable = read_tensors(folder, required=weights)
    result.seconds = time.monotonic() - started
    return result


def glance(folder: Path, listing: Listing) -> Verification:
    """Names and sizes only, in milliseconds; `hashed` is False."""
    result = Verification(folder, files=len(listing.files), bytes=listing.bytes, hashed=False)
    _by_size(folder, listing, result)
    return result


def write(folder: Path, listing: Listing, *, profile: str, source: str, weights: bool, known: dict[str, str]) -> Path:
    """Write the manifest of a folder that `check` has found whole: beside, then renamed, so that it is whole or absent."""
    rows = []
    for file in listing.files:
        state = (folder / file.path).stat()
        digest = file.digest or known[_key(folder / file.path, "sha256")]
        rows.append({"path": file.path, "size": file.size, "digest": digest, "mtime_ns": state.st_mtime_ns})
    names = {"profile": profile, "model": listing.model, "source": source, "revision": listing.revision}
    content = {"version": 1, **names, "weights": weights, "files": rows}
    with beside(folder / NAME) as draft, draft.open("w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    return folder / NAME


def read(folder: Path) -> dict[str, Any] | None:
    """The manifest of `folder`, or None where there is none that can be used."""
    try:
        content = json.loads((folder / NAME).read_text(encoding="utf-8"))
        whole = content["version"] == 1 and listed(content).model and {"profile", "weights"} <= content.keys()
        return content if whole and all(_row_is_right(row) for row in content["files"]) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _row_is_right(row: dict[str, Any]) -> bool:
    sizes = all(isinstance(row[name], int) and row[name] >= 0 for name in ("size", "mtime_ns"))
    return sizes and isinstance(row["digest"], str) and not path_fault(row["path"])


def listed(manifest: dict[str, Any]) -> Listing:
    """The files that a manifest names, as the hub listed them."""
    files = tuple(RemoteFile(row["path"], row["size"], row["digest"]) for row in manifest["files"])
    return Listing(manifest["model"], files, manifest.get("revision", ""))


def read_tensors(folder: Path, *, required: bool) -> tuple[int, list[str]]:
    """(number of tensors, what is wrong): every header parses, offsets end with the file, the index names only what is there."""
    shards: dict[str, str] = {}
    wrong = []
    for shard in sorted(folder.glob("*.safetensors")):
        try:
            shards |= dict.fromkeys(read_header(shard), shard.name)
        except (ValueError, OSError) as error:
            wrong.append(f"{shard.name}: {error}")
    if required and not shards and not wrong:
        wrong.append("no *.safetensors file with tensors")
    return len(shards), wrong or _against_index(folder, shards)


def _against_index(folder: Path, shards: dict[str, str]) -> list[str]:
    """What is wrong with the index of `folder`; `shards` says in which file each tensor was found."""
    try:
        index = Index.read(folder)
    except UNREADABLE as error:
        return [f"{INDEX}: {error}"]
    if unindexed := index.unindexed(shards.values()):
        return [f"{INDEX} is missing, which {len(unindexed)} shards need"]
    if absent := index.absent():
        return [f"{shard} is named by {INDEX} and not there" for shard in absent]
    astray = index.astray(shards)
    return [f"{len(astray)} tensors are not in the shard that {INDEX} names, first {astray[0]}"] if astray else []


def _folder(model: str | Profile | Path) -> Path:
    if isinstance(model, Path):
        return model
    if isinstance(model, Profile):
        return model.folder()
    return Path(model) if "/" in model and model not in profiles() else find_profile(model).folder()


def _quick(folder: Path, manifest: dict[str, Any]) -> Verification:
    result = Verification(folder, files=len(manifest["files"]), hashed=False)
    for row in manifest["files"]:
        try:
            state = (folder / row["path"]).stat()
        except OSError:
            result.missing.append(row["path"])
            continue
        result.bytes += state.st_size
        if (state.st_size, state.st_mtime_ns) != (row["size"], row["mtime_ns"]):
            result.wrong_size.append(row["path"])
            sizes = f"expected {row['size']:,} bytes, found {state.st_size:,}"
            result.differences[row["path"]] = sizes if state.st_size != row["size"] else "written to since it was verified"
    return result


def _by_size(folder: Path, listing: Listing, result: Verification) -> list[RemoteFile]:
    right = []
    for file in listing.files:
        path = folder / file.path
        if not path.is_file():
            result.missing.append(file.path)
        elif path.stat().st_size != file.size:
            result.wrong_size.append(file.path)
            result.differences[file.path] = f"expected {file.size:,} bytes, found {path.stat().st_size:,}"
        else:
            right.append(file)
    return right


def _digests(folder: Path, files: Iterable[RemoteFile], known: dict[str, str]) -> dict[str, str]:
    """path -> digest of the kind that the hub gave (SHA-256 where it gave none), hashed in threads."""
    wanted = {file.path: (folder / file.path, file.digest.partition(":")[0] or "sha256") for file in files}
    todo = [(path, kind) for path, kind in wanted.values() if _key(path, kind) not in known]
    total = sum(path.stat().st_size for path, _ in todo)
    if todo:
        done, lock = [0], Lock()
        watched: AbstractContextManager[Progress | None] = nullcontext()
        if total > UNWATCHED:
            watched = Progress("Verifying", total=total, unit="B")
        with watched as bar, ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:

            def read_on(path: Path, kind: str) -> str:
                digest = _hasher(path, kind)
                with path.open("rb") as stream:
                    while block := stream.read(BLOCK):
                        digest.update(block)
                        with lock:
                            done[0] += len(block)
                            if bar:
                                bar.update(done[0])
                return f"{kind}:{digest.hexdigest()}"

            for (path, kind), digest in zip(todo, pool.map(lambda row: read_on(*row), todo), strict=True):
                known[_key(path, kind)] = digest
    return {name: known[_key(path, kind)] for name, (path, kind) in wanted.items()}


def _hasher(path: Path, kind: str) -> Any:
    return hashlib.sha256() if kind == "sha256" else hashlib.sha1(b"blob %d\0" % path.stat().st_size)


def _key(path: Path, kind: str) -> str:
    state = path.stat()
    return f"{kind} {path} {state.st_size} {state.st_mtime_ns}"


def _verdict(names: list[str], right: str, prefix: str = "wrong: ") -> str:
    return prefix + ", ".join(names) if names else right
