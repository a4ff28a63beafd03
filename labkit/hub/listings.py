"""What a hub says a model consists of: paths, sizes, hashes. Asked before the first byte, held against the files after.

Covers: the list APIs of ModelScope and of Hugging Face (and its mirrors), read with the standard library so that a list
costs no client import.
Does not cover: fetching (`fetch`), holding a folder against a list (`manifests`).
Sources: modelscope-hub 0.5.1 `_legacy_api.list_repo_files`, huggingface_hub 2.4.0 `HfApi.list_repo_tree`.
"""

from __future__ import annotations

import json
import os
import time
import urllib.request
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from ..common.errors import DownloadError
from ..models.listing import Listing, RemoteFile

TIMEOUT = 20
TRIES = 3


def modelscope(endpoint: str, model: str, *, proxy: bool = False) -> Listing:
    """The list of `model` at a ModelScope endpoint; SHA-256 for every file. Raises `DownloadError`."""
    address = f"{endpoint}/api/v1/models/{quote(model)}/repo/files?Revision=master&Recursive=True"
    data = _get(address, model, proxy)[0].get("Data") or {}
    rows = [row for row in data.get("Files") or [] if row.get("Type") != "tree"]
    return _listing(model, [_file(row["Path"], row["Size"], "sha256", row.get("Sha256")) for row in rows])


def huggingface(endpoint: str, model: str, *, proxy: bool = True) -> Listing:
    """The list of `model` at a Hugging Face endpoint; SHA-256 for LFS files, git blob ids for the small ones.

    Raises `DownloadError`. A token in `HF_TOKEN` is sent along.
    """
    token = os.environ.get("HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    address = f"{endpoint}/api/models/{quote(model)}/tree/main?recursive=true"
    files = []
    while address:
        rows, address = _get(address, model, proxy, headers)
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


def _get(address: str, model: str, proxy: bool, headers: dict[str, str] | None = None) -> tuple[Any, str]:
    """One JSON answer and the address of the next page ("" at the end)."""
    opener = urllib.request.build_opener() if proxy else urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(address, headers={"User-Agent": "labkit", **(headers or {})})
    for last in range(TRIES - 1, -1, -1):
        try:
            with opener.open(request, timeout=TIMEOUT) as answer:
                return json.load(answer), _next_page(answer.headers.get("Link", ""))
        except urllib.error.HTTPError as error:
            if error.code < 500 or not last:
                raise _refused(address, model, error.code) from error
        except (OSError, ValueError) as error:
            if not last:
                raise _unreachable(address, error) from error
        time.sleep(1)
    raise AssertionError("the loop above returns or raises")


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
