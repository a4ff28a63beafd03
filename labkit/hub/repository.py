"""A model folder as the loopback hub shows it: files with sizes and hashes, large ones as LFS keeps them, and a bare git repository.

Does not cover: who asks for it, and by which protocol (`server`). Used by notebook 02 through `labkit.open_hub`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path

LFS_PATTERNS = ("*.safetensors", "tokenizer.json")
ATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS)


@dataclass(frozen=True)
class HubFile:
    """One file of a served model: its size in bytes, its SHA-256, its git blob id, and whether it is in LFS."""

    path: str
    size: int
    sha256: str
    blob: str
    large: bool

    @property
    def pointer(self) -> bytes:
        """What git holds in place of a large file."""
        return _pointer(self.sha256, self.size)


class Repository:
    """One model folder as the hubs see it. Hidden files and `labkit.manifest.json` are not served."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder

    @cached_property
    def files(self) -> dict[str, HubFile]:
        """The files by path; large ones are those that a hub keeps in LFS."""
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file() and not _hidden(path.relative_to(self.folder)))
        return {file.path: file for file in map(self._file, paths)}

    @cached_property
    def commit(self) -> str:
        """The revision: a hash over the file list."""
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()

    def by_oid(self, oid: str) -> HubFile | None:
        """The large file with this SHA-256, if there is one."""
        return next((file for file in self.files.values() if file.large and file.sha256 == oid), None)

    def make_bare(self, root: Path) -> Path:
        """The bare git repository below `root`, made once, of one commit: small files as they are, large ones as LFS pointers."""
        bare = root / (self.name.replace("/", "--") + ".git")
        if bare.exists():
            return bare
        draft = bare.with_suffix(".draft")
        _git(root, "init", "--quiet", "--bare", "--initial-branch=master", str(draft))
        contents = {".gitattributes": ATTRIBUTES.encode()}
        for file in self.files.values():
            contents[file.path] = file.pointer if file.large else (self.folder / file.path).read_bytes()
        for path, content in contents.items():
            blob = _git(draft, "hash-object", "-w", "--stdin", content=content)
            _git(draft, "update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
        commit = _git(draft, "commit-tree", _git(draft, "write-tree"), "-m", self.name)
        _git(draft, "update-ref", "refs/heads/master", commit)
        draft.rename(bare)
        return bare

    def _file(self, path: Path) -> HubFile:
        content = path.read_bytes()
        name = path.relative_to(self.folder).as_posix()
        large = any(fnmatch(name, pattern) for pattern in LFS_PATTERNS)
        sha256 = hashlib.sha256(content).hexdigest()
        blob = _pointer(sha256, len(content)) if large else content
        return HubFile(name, len(content), sha256, hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest(), large)


def _pointer(oid: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()


def _hidden(path: Path) -> bool:
    return path.name == "labkit.manifest.json" or any(part.startswith(".") for part in path.parts)


def _git(folder: Path, *arguments: str, content: bytes = b"") -> str:
    identity = {"NAME": "labkit", "EMAIL": "labkit@localhost", "DATE": "@0 +0000"}
    environment = {**os.environ, **{f"GIT_{role}_{part}": value for role in ("AUTHOR", "COMMITTER") for part, value in identity.items()}}
    if arguments[0] != "init":
        environment |= {"GIT_DIR": str(folder), "GIT_INDEX_FILE": str(folder / "labkit.index")}
    done = subprocess.run(["git", *arguments], input=content, env=environment, cwd=folder, capture_output=True, check=True)
    return done.stdout.decode().strip()
