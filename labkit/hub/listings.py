"""What a hub says a model consists of: paths, sizes, hashes, the commit. Asked before the first byte, held against the files after.

Covers: the list APIs of ModelScope and of Hugging Face (and its mirrors), read with the standard library (`questions`) so that a list
costs no client import. Does not cover: fetching (`client`), holding a folder against a list (`models.manifests`).
Used by notebook 02 through `downloads`.
Sources: modelscope-hub 0.5.1 `_legacy_api.list_repo_files`, huggingface_hub 2.4.0 `HfApi.list_repo_tree`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from ..common.errors import DownloadError
from ..models.listing import Listing, RemoteFile, clash, path_fault
from ..models.manifests import NAME
from .links import next_page
from .patience import Patience
from .questions import Questions
from .verdicts import Asked

MOST_PAGES = 1000
"""Of a list; a hub that hands out pages for ever would be asked for ever."""


def modelscope(endpoint: str, model: str, *, proxy: bool = False, asked: Asked | None = None, patience: Patience | None = None) -> Listing:
    """The list of `model` at a ModelScope endpoint; SHA-256 for every file. Raises `DownloadError`."""
    asked = asked or Asked("modelscope", "ModelScope", endpoint, model)
    questions = Questions(asked, proxy, patience or Patience())
    content, _ = questions.ask(f"{endpoint}/api/v1/models/{quote(model)}/repo/files?Revision=master&Recursive=True")
    if not isinstance(content, dict) or not {"Data", "Success", "Code"} & content.keys():
        raise questions.not_a_list(content)
    if content.get("Success") is False or content.get("Code") not in (None, 0, 200):
        raise _refusal(asked, content)
    data = content.get("Data") or {}
    try:
        rows = [row for row in data.get("Files") or [] if row["Type"] != "tree"] if isinstance(data, dict) else []
        files = [_file(asked, row["Path"], row["Size"], "sha256", row.get("Sha256")) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise questions.not_a_list(content) from error
    commit = (
        (data.get("LatestCommitter") or {}).get("Id") if isinstance(data, dict) and isinstance(data.get("LatestCommitter"), dict) else ""
    )
    return _listing(asked, files, commit if isinstance(commit, str) else "")


def huggingface(endpoint: str, model: str, *, proxy: bool = True, asked: Asked | None = None, patience: Patience | None = None) -> Listing:
    """The list of `model` at a Hugging Face endpoint; SHA-256 for LFS files, git blob ids for the small ones.

    The commit is asked for first and then listed, so that list and files are of one state; where a mirror does not tell it, the
    newest is listed. Raises `DownloadError`. A token in `HF_TOKEN` is sent along, to this endpoint alone.
    """
    asked = asked or Asked("huggingface", "Hugging Face", endpoint, model)
    token = (os.environ.get("HF_TOKEN") or "").strip()
    questions = Questions(asked, proxy, patience or Patience(), {"Authorization": f"Bearer {token}"} if token else {})
    commit = _commit(questions, f"{endpoint}/api/models/{quote(model)}/revision/main")
    address = f"{endpoint}/api/models/{quote(model)}/tree/{commit or 'main'}?recursive=true"
    files: list[RemoteFile] = []
    seen: set[str] = set()
    while address and address not in seen and len(seen) < MOST_PAGES:
        seen.add(address)
        rows, link = questions.ask(address)
        if not isinstance(rows, list):
            raise questions.not_a_list(rows)
        try:
            files += [_row(asked, row) for row in rows if row["type"] == "file"]
        except (KeyError, TypeError, ValueError) as error:
            raise questions.not_a_list(rows) from error
        address = next_page(link, address, endpoint)
    if address:
        raise DownloadError(f"{asked.host} leads in a circle through the pages of its list.", f"Try again later. {asked.other_way}")
    return _listing(asked, files, commit)


def _commit(questions: Questions, address: str) -> str:
    """The commit of the branch, "" where a mirror does not tell; the list itself says what is wrong with the hub."""
    content = questions.ask_if_there(address)
    commit = content.get("sha") if isinstance(content, dict) else None
    return commit if isinstance(commit, str) and len(commit) == 40 and set(commit) <= set("0123456789abcdef") else ""


def _row(asked: Asked, row: dict[str, Any]) -> RemoteFile:
    large = row.get("lfs")
    kind, digest = ("sha256", large.get("oid")) if large else ("git", row.get("oid"))
    return _file(asked, row["path"], row["size"], kind, digest)


def _file(asked: Asked, path: str, size: int, kind: str, digest: str | None) -> RemoteFile:
    if fault := path_fault(path):
        cause = f"{asked.host} lists a file that must not be written for {asked.model}: {repr(path)[:300]}: {fault}. Nothing was written."
        raise DownloadError(cause, "Do not use this model, or take another source.")
    if int(size) < 0:
        raise ValueError(f"{path} of {size} bytes")
    return RemoteFile(path, int(size), f"{kind}:{digest.removeprefix('sha256:')}" if digest else "")


def _listing(asked: Asked, files: Iterable[RemoteFile], revision: str) -> Listing:
    named = [file for file in files if file.path != NAME]  # somebody uploaded a folder of ours: the manifest here is written here
    if not named:
        raise DownloadError(f"{asked.host} lists no files for {asked.model}.", f"Try again in a minute. {asked.other_way}")
    if fault := clash(file.path for file in named):
        raise DownloadError(f"The list of {asked.host} for {asked.model} cannot be right: {fault}.", f"Try again later. {asked.other_way}")
    return Listing(asked.model, tuple(sorted(named, key=lambda file: file.path)), revision)


def _refusal(asked: Asked, content: dict[str, Any]) -> DownloadError:
    """ModelScope answers with HTTP 200 and a code of its own."""
    says = content.get("Message") or content.get("message") or "no word of why"
    cause = f'{asked.host} does not list {asked.model}: "{str(says)[:200]}" (code {content.get("Code")}).'
    return DownloadError(cause, f"Check the model's name; a private one needs your token (MODELSCOPE_API_TOKEN). {asked.other_way}")
