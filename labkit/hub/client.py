"""One download by one real client, in a process of its own: a worker script that `downloads` starts through `process`.

Of its own, because clients read their settings when they are imported, and because a process can be killed at any moment:
whatever is on disk then is what the next one goes on from. It ends with its parent (`workers.side`).

Covers: calling ModelScope's and Hugging Face's clients and git; resuming what huggingface_hub would throw away.
Does not cover: space (`downloads`), progress (`process`), verification (`models.manifests`). Used by notebook 02.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from labkit.common.files import beside
from labkit.models.listing import RemoteFile
from labkit.workers import side

WORKERS = 4
LFS_RETRIES = ("-c", "lfs.transfer.maxretries=3", "-c", "lfs.transfer.maxretrydelay=2")
"""git-lfs's own are 8 and 10 s, which makes a file that is not there cost over a minute; `downloads` tries twice anyway."""


@dataclass(frozen=True)
class Job:
    """What to fetch: `folder` None means by id, into the client's cache below `root`; `kept` are files already right."""

    source: str
    model: str
    endpoint: str
    root: Path
    folder: Path | None
    files: tuple[RemoteFile, ...]
    kept: tuple[str, ...] = ()

    def as_request(self) -> dict[str, Any]:
        """The same as plain JSON."""
        return asdict(self) | {"root": str(self.root), "folder": str(self.folder) if self.folder else None}

    @classmethod
    def from_request(cls, request: Mapping[str, Any]) -> Job:
        """The job that `as_request` wrote."""
        fields = {**request, "root": Path(request["root"]), "folder": Path(request["folder"]) if request["folder"] else None}
        return cls(**fields | {"files": tuple(RemoteFile(**file) for file in request["files"]), "kept": tuple(request["kept"])})


def main() -> None:
    """Read the job, fetch, and tell the folder."""
    job = Job.from_request(side.read_request())
    fetch = {"modelscope": modelscope, "huggingface": huggingface, "git-lfs": git_lfs}[job.source]
    side.tell("result", folder=str(fetch(job)))


def modelscope(job: Job) -> Path:
    """ModelScope's client; it keeps `<file>.incomplete` and resumes it itself."""
    from modelscope.hub.snapshot_download import snapshot_download  # type: ignore[import-untyped]

    return Path(snapshot_download(job.model, local_dir=str(job.folder) if job.folder else None, max_workers=WORKERS))


def huggingface(job: Job) -> Path:
    """Hugging Face's client, after what an earlier one left half-done was completed."""
    from huggingface_hub import snapshot_download

    finish_partial_files(job)
    return Path(snapshot_download(job.model, local_dir=job.folder, max_workers=WORKERS))


def finish_partial_files(job: Job) -> None:
    """Complete the partial files of a killed huggingface_hub, and put them where the client looks first.

    Since 2.x it writes to `<etag>.<random>.incomplete` and never resumes such a file in another process (2.4.0,
    `file_download._download_to_tmp_and_move`); with 8 GB shards that is half an hour. The etag is the SHA-256 of the
    file, so the rest can be fetched by range, and the client takes a file over once its hash is right.
    """
    by_hash = {file.digest.removeprefix("sha256:"): file for file in job.files if file.digest.startswith("sha256:")}
    best: dict[str, Path] = {}
    for partial in sorted(_partials(job), key=lambda path: path.stat().st_size):
        etag = partial.name.split(".")[-3]
        if etag in by_hash and not _target(job, by_hash[etag]).exists():
            if etag in best:
                best[etag].unlink()
            best[etag] = partial
        else:
            partial.unlink()
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda pair: _finish(job, by_hash[pair[0]], pair[1]), best.items()))


def git_lfs(job: Job) -> Path:
    """git for the small files, `git lfs fetch` for the large ones, then hard links into the folder.

    A plain `git lfs pull` keeps each large file twice, in .git/lfs and in the folder; links keep it once.
    """
    folder = job.folder
    assert folder is not None, "git has no cache by id"
    _repository(folder, f"{job.endpoint}/{quote(job.model)}.git")
    large = _lfs_files(folder)
    for path in set(job.kept) & set(large):
        stored = _lfs_object(folder, large[path])
        if not stored.exists():
            stored.parent.mkdir(parents=True, exist_ok=True)
            os.link(folder / path, stored)
    _rename_partials(folder)
    _git(folder, *LFS_RETRIES, "lfs", "fetch", "origin", "HEAD")
    for path, oid in large.items():
        _link(_lfs_object(folder, oid), folder / path)
    tracked = _git(folder, "ls-files", "-z").split("\0")
    small = [path for path in tracked if path and path not in large and path not in job.kept]
    if small:
        _git(folder, "checkout", "--quiet", "HEAD", "--", *small)
    _git(folder, "lfs", "install", "--local")
    return folder


def _partials(job: Job) -> Iterable[Path]:
    places = [job.folder / ".cache" / "huggingface" / "download"] if job.folder else [job.root / "blobs"]
    return [path for place in places if place.is_dir() for path in place.rglob("*.*.incomplete")]


def _target(job: Job, file: RemoteFile) -> Path:
    return job.folder / file.path if job.folder else job.root / "blobs" / file.digest.removeprefix("sha256:")


def _finish(job: Job, file: RemoteFile, partial: Path) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    if partial.stat().st_size > file.size:
        partial.unlink()
        return
    with partial.open("ab") as stream:
        headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        http_get(hf_hub_url(job.model, file.path), stream, resume_size=partial.stat().st_size, headers=headers, expected_size=file.size)
    with partial.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    if f"sha256:{digest.hexdigest()}" != file.digest:
        partial.unlink()
        return
    _target(job, file).parent.mkdir(parents=True, exist_ok=True)
    partial.replace(_target(job, file))


def _repository(folder: Path, address: str) -> None:
    """`folder/.git` at the newest commit of `address`, with an index and no work tree yet; a half-made clone never counts."""
    if not (folder / ".git").exists():
        draft = folder / ".git.draft"
        shutil.rmtree(draft, ignore_errors=True)
        _git(folder, "clone", "--quiet", "--depth", "1", "--no-checkout", address, str(draft))
        (draft / ".git").rename(folder / ".git")
        draft.rmdir()
    _git(folder, "remote", "set-url", "origin", address)
    _git(folder, "fetch", "--quiet", "--depth", "1", "origin", "HEAD")
    _git(folder, "update-ref", "HEAD", "FETCH_HEAD")
    (folder / ".git" / "index.lock").unlink(missing_ok=True)  # of a git that was killed: `downloads` lets in one at a time
    _git(folder, "read-tree", "HEAD")


def _lfs_files(folder: Path) -> dict[str, str]:
    rows = (line.split(" ", 2) for line in _git(folder, "lfs", "ls-files", "--long", "HEAD").splitlines())
    return {path: oid for oid, _, path in rows}


def _lfs_object(folder: Path, oid: str) -> Path:
    return folder / ".git" / "lfs" / "objects" / oid[:2] / oid[2:4] / oid


def _rename_partials(folder: Path) -> None:
    """Give the partial files of a killed git-lfs the name that it resumes from.

    While it writes, `<oid>.part` is called `<oid><random>`; only an orderly end names it back (3.3.0, measured).
    """
    partials = [path for path in (folder / ".git" / "lfs" / "incomplete").glob("*") if re.fullmatch(r"[0-9a-f]{64}\d+", path.name)]
    for partial in sorted(partials, key=lambda path: path.stat().st_size):
        partial.replace(partial.with_name(partial.name[:64] + ".part"))


def _link(stored: Path, path: Path) -> None:
    if path.exists() and path.samefile(stored):
        return
    with beside(path) as draft:
        os.link(stored, draft)


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"git {' '.join(arguments)[:60]} ended with code {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    main()
