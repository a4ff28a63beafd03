"""One download by one real client, in a process of its own: a worker script that `downloads` starts through `process`.

Of its own, because clients read their settings when they are imported, and because a process can be killed at any moment:
whatever is on disk then is what the next one goes on from. It ends with its parent (`workers.side`). A failure is told as data
(`evidence`), because here the exceptions are at hand.

Covers: calling ModelScope's and Hugging Face's clients; resuming what huggingface_hub would throw away; taking away the lists that
clients keep. Does not cover: git (`git_client`), space (`downloads`), progress (`process`), verification (`models.manifests`).
Used by notebook 02.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from labkit.hub import git_client
from labkit.hub.evidence import from_error
from labkit.hub.failures import classify
from labkit.hub.job import Fetched, Job
from labkit.hub.patience import Patience
from labkit.hub.verdicts import Asked
from labkit.hub.witness import Witness, watch_httpx, watch_requests
from labkit.models.listing import RemoteFile
from labkit.workers import side

WORKERS = 4
WRITE_BYTES = 2**20
"""huggingface_hub keeps 10 MB in memory before it writes them: a slow line looked dead, and a kill cost as much."""


def main() -> None:
    """Read the job, fetch, and tell where the model is; or tell what failed."""
    job = Job.from_request(side.read_request())
    patience = Patience(job.patience, lambda text: side.tell("waiting", text=text))
    witness = Witness(job.endpoint, patience)
    try:
        done = {"modelscope": modelscope, "huggingface": huggingface, "git-lfs": git_client.fetch}[job.source](job, witness)
    except Exception as error:
        traceback.print_exc()
        side.tell("failure", **from_error(error).as_message())
        _end()
    if witness.failed and any(not (done.folder / file.path).is_file() for file in job.files):
        side.tell("failure", **witness.failed.as_message())  # the client took what lay there for the model: it could not ask
        _end()
    side.tell("result", **done.as_result())


def _end() -> None:
    """At once: threads of a client may wait for minutes."""
    sys.stderr.flush()
    os._exit(1)


def modelscope(job: Job, witness: Witness) -> Fetched:
    """ModelScope's client; it keeps `<file>.incomplete` and resumes it itself."""
    watch_requests(witness)
    from modelscope.hub.snapshot_download import snapshot_download  # type: ignore[import-untyped]
    from modelscope_hub import _download

    _download._wait_download_retry = _where_it_can_help(_download._wait_download_retry)
    return Fetched(Path(snapshot_download(job.model, local_dir=str(job.folder) if job.folder else None, max_workers=WORKERS)))


def _where_it_can_help(wait: Callable[..., Any]) -> Callable[..., Any]:
    """ModelScope's client asks again for half a minute whatever failed (modelscope-hub 0.5.1), then hides the cause.

    What cannot pass by itself is raised at once, a host that is not there after one more try.
    """
    tried: Counter[str] = Counter()

    def wait_or_raise(retry: Any, error: Exception, path: str, control: Any) -> Any:
        found = from_error(error)
        tried[path] += 1
        failure = classify(found, Asked())
        if not failure.again and failure.kind != "bytes" or failure.kind in ("dns", "unreachable") and tried[path] > 1:
            raise error
        return wait(retry, error, path, control)

    return wait_or_raise


def huggingface(job: Job, witness: Witness) -> Fetched:
    """Hugging Face's client at the commit that was listed, after what an earlier one left half-done was completed."""
    from huggingface_hub import constants, get_session, snapshot_download

    watch_httpx(witness, type(get_session()).__module__.partition(".")[0])
    constants.DOWNLOAD_CHUNK_SIZE = WRITE_BYTES
    forget_lists(job)
    finish_partial_files(job)
    revision = job.revision or None
    folder = Path(snapshot_download(job.model, local_dir=job.folder, max_workers=WORKERS, revision=revision))
    if job.folder is None and revision:
        name_commit(job.root / "refs" / "main", revision)
    return Fetched(folder, job.revision)


def forget_lists(job: Job) -> None:
    """Take away the lists that huggingface_hub keeps by commit and never asks for again (2.4.0, `_tree_cache`).

    A hub that once listed too little would be believed for ever.
    """
    shutil.rmtree(job.folder / ".cache" / "huggingface" / "trees" if job.folder else job.root / "trees", ignore_errors=True)


def name_commit(reference: Path, revision: str) -> None:
    """Write which commit the branch is at: the client leaves it out when it is asked for a commit, and engines look for it."""
    reference.parent.mkdir(parents=True, exist_ok=True)
    draft = reference.with_name(reference.name + ".labkit")
    draft.write_text(revision)
    draft.replace(reference)


def finish_partial_files(job: Job) -> None:
    """Complete the partial files of a killed huggingface_hub, and put them where the client looks first.

    Since 2.x it writes to `<etag>.<random>.incomplete` and never resumes such a file in another process (2.4.0,
    `file_download._download_to_tmp_and_move`); with 8 GB shards that is half an hour. The etag is the SHA-256 of the
    file, so the rest can be fetched by range, and the client takes a file over once its hash is right.
    """
    by_hash = {file.hash: file for file in job.files if file.digest.startswith("sha256:")}
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


def _partials(job: Job) -> Iterable[Path]:
    places = [job.folder / ".cache" / "huggingface" / "download"] if job.folder else [job.root / "blobs"]
    return [path for place in places if place.is_dir() for path in place.rglob("*.*.incomplete")]


def _target(job: Job, file: RemoteFile) -> Path:
    return job.folder / file.path if job.folder else job.root / "blobs" / file.hash


def _finish(job: Job, file: RemoteFile, partial: Path) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    if partial.stat().st_size > file.size:
        partial.unlink()
        return
    with partial.open("ab") as stream:
        headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        address = hf_hub_url(job.model, file.path, revision=job.revision or None)
        http_get(address, stream, resume_size=partial.stat().st_size, headers=headers, expected_size=file.size)
    with partial.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    if f"sha256:{digest.hexdigest()}" != file.digest:
        partial.unlink()
        return
    _target(job, file).parent.mkdir(parents=True, exist_ok=True)
    partial.replace(_target(job, file))


if __name__ == "__main__":
    main()
