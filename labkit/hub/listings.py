"""What a hub says a model consists of: paths, sizes, hashes. Asked before the first byte, held against the files after.

Covers: the list APIs of ModelScope and of Hugging Face (and its mirrors), read with the standard library so that a list
costs no client import.
Does not cover: fetching (`client`), holding a folder against a list (`models.manifests`). Used by notebook 02 through `downloads`.
Sources: modelscope-hub 0.5.1 `_legacy_api.list_repo_files`, huggingface_hub 2.4.0 `HfApi.list_repo_tree`.
"""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from http.client import HTTPException
from pathlib import PurePosixPath
from typing import Any, TypeVar
from urllib.parse import quote

from ..common.errors import DownloadError
from ..models.listing import Listing, RemoteFile

READ_SECONDS = 20.0
"""How long a hub may be silent before it is asked again."""
DEADLINE_SECONDS = 60.0
"""How long a whole list may take, all its pages and tries together."""
TRIES = 3
BLOCK = 64 * 1024
Result = TypeVar("Result")


def modelscope(endpoint: str, model: str, *, proxy: bool = False) -> Listing:
    """The list of `model` at a ModelScope endpoint; SHA-256 for every file. Raises `DownloadError`."""
    address = f"{endpoint}/api/v1/models/{quote(model)}/repo/files?Revision=master&Recursive=True"
    data = _get(address, model, proxy, _deadline())[0].get("Data") or {}
    rows = [row for row in data.get("Files") or [] if row.get("Type") != "tree"]
    return _listing(model, [_file(row["Path"], row["Size"], "sha256", row.get("Sha256")) for row in rows])


def huggingface(endpoint: str, model: str, *, proxy: bool = True) -> Listing:
    """The list of `model` at a Hugging Face endpoint; SHA-256 for LFS files, git blob ids for the small ones.

    Raises `DownloadError`. A token in `HF_TOKEN` is sent along.
    """
    token = os.environ.get("HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    address = f"{endpoint}/api/models/{quote(model)}/tree/main?recursive=true"
    files, deadline = [], _deadline()
    while address:
        rows, address = _get(address, model, proxy, deadline, headers)
        for row in rows:
            if row["type"] == "file":
                large = row.get("lfs")
                files.append(_file(row["path"], row["size"], *(("sha256", large["oid"]) if large else ("git", row.get("oid")))))
    return _listing(model, files)


def _file(path: str, size: int, kind: str, digest: str | None) -> RemoteFile:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts:
        raise DownloadError(f"The hub lists a file outside the model folder: {path!r}.", "Do not use this model.")
    return RemoteFile(path, int(size), f"{kind}:{digest}" if digest else "")


def _listing(model: str, files: list[RemoteFile]) -> Listing:
    if not files:
        raise DownloadError(f"The hub lists no files for {model}.", "Try again in a minute, or take another source.")
    return Listing(model, tuple(sorted(files, key=lambda file: file.path)))


def _get(address: str, model: str, proxy: bool, deadline: float, headers: Mapping[str, str] | None = None) -> tuple[Any, str]:
    """One JSON answer and the address of the next page ("" at the end), before `time.monotonic()` reaches `deadline`."""
    opener = urllib.request.build_opener() if proxy else urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(address, headers={"User-Agent": "labkit", **(headers or {})})
    for last in range(TRIES - 1, -1, -1):
        try:
            return _until(deadline, lambda: _read(opener, request, deadline))
        except urllib.error.HTTPError as error:
            if error.code < 500 or not last:
                raise _refused(address, model, error.code) from error
        except (OSError, ValueError, HTTPException) as error:
            if not last or time.monotonic() >= deadline:
                raise _unreachable(address, error) from error
        time.sleep(max(0.0, min(1.0, deadline - time.monotonic())))
    raise AssertionError("the loop above returns or raises")


def _deadline() -> float:
    return time.monotonic() + DEADLINE_SECONDS


def _read(opener: urllib.request.OpenerDirector, request: urllib.request.Request, deadline: float) -> tuple[Any, str]:
    body = bytearray()
    with opener.open(request, timeout=READ_SECONDS) as answer:
        while block := answer.read1(BLOCK):
            body += block
            if time.monotonic() > deadline:
                raise _late()
        return json.loads(body), _next_page(answer.headers.get("Link", ""))


def _until(deadline: float, work: Callable[[], Result]) -> Result:
    """What `work` returns or raises, or `TimeoutError` at `deadline`.

    In a thread, because a socket's timeout holds for each read and the names of a hub are looked up without any: a hub that sends
    a byte now and then is never late. A thread that is left behind ends with its connection.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="labkit-listing").start()
    try:
        return future.result(max(0.0, deadline - time.monotonic()))
    except TimeoutError:
        if future.done():
            raise
        raise _late() from None


def _late() -> TimeoutError:
    return TimeoutError(f"no whole list within {DEADLINE_SECONDS:.0f} s")


def _next_page(link: str) -> str:
    return link.split(">")[0].lstrip("<") if 'rel="next"' in link else ""


def _refused(address: str, model: str, status: int) -> DownloadError:
    host = address.split("/api/")[0]
    if status == 404:
        return DownloadError(f"{host} has no model {model} (HTTP 404).", "Check the id, or take another source.")
    if status in (401, 403):
        cause = f"{host} does not give {model} to everybody (HTTP {status})."
        return DownloadError(cause, "Log in at the hub, accept its terms, export HF_TOKEN.")
    return DownloadError(f"{host} answered HTTP {status} for the file list of {model}.", "Try again in a minute, or take another source.")


def _unreachable(address: str, error: Exception) -> DownloadError:
    reason = getattr(error, "reason", error)
    return DownloadError(
        f"{address.split('/api/')[0]} cannot be reached: {reason}.",
        'In China take source="modelscope", or the mirror: export HF_ENDPOINT=https://hf-mirror.com. '
        "On AutoDL `source /etc/network_turbo` helps Hugging Face. If only a proxy leads out: download(..., proxy=True).",
    )
