"""The three protocols of the loopback hub, told apart by their paths: Hugging Face, ModelScope, and git with LFS.

Covers: what `huggingface_hub.snapshot_download`, `modelscope.snapshot_download`, `git clone` and `git lfs fetch` ask for when
they read one public model. Does not cover: uploads, accounts, data sets, Xet, several revisions.
Endpoints are those of huggingface_hub 2.4, modelscope-hub 0.5 and git-lfs 3.3. Used by notebook 02 through `labkit.open_hub`.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .faults import BATCH, GIT, INFO, LIST
from .repository import HubFile, Repository
from .server import Handler, Request, Route

BINARY = {"Content-Type": "application/octet-stream"}
GIT_SECONDS = 60
"""How long git may take for one answer; it reads a repository of a few MB."""


def _huggingface_info(handler: Handler, request: Request) -> None:
    repository = request.repository
    siblings = [{"rfilename": file.path} for file in _listed(handler, repository)]
    handler.send_json({"id": repository.name, "modelId": repository.name, "sha": repository.commit, "private": False, "siblings": siblings})


def _huggingface_tree(handler: Handler, request: Request) -> None:
    rows = []
    for file in _listed(handler, request.repository):
        row: dict[str, Any] = {"type": "file", "path": file.path, "size": file.size, "oid": file.blob}
        if file.large:
            row["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
        rows.append(row)
    half, headers = handler.server.faults.take(LIST, "half", "away"), {}
    if half and "cursor" not in request.query:
        host = half.to if half.kind == "away" else handler.server.url.partition("://")[2]
        headers["Link"] = f'<http://{host}{handler.path}&cursor=2>; rel="next"'
    middle = len(rows) // 2
    handler.send_json((rows[middle:] if "cursor" in request.query else rows[:middle]) if half else rows, headers=headers)


def _huggingface_file(handler: Handler, request: Request) -> None:
    file = request.repository.files.get(request.path)
    headers = {"X-Repo-Commit": request.repository.commit}
    if file:
        tag = f'"{file.sha256 if file.large else file.blob}"'
        headers |= {"ETag": tag, "X-Linked-ETag": tag, "X-Linked-Size": str(file.size), **BINARY}
    handler.send_file(request.repository, file, headers)


def _modelscope_info(handler: Handler, request: Request) -> None:
    owner, name = request.repository.name.split("/")
    handler.send_json({"Code": 200, "Success": True, "Data": {"Path": owner, "Name": name, "Revision": "master"}})


def _modelscope_files(handler: Handler, request: Request) -> None:
    rows = [
        {"Path": f.path, "Name": f.path.rsplit("/", 1)[-1], "Type": "blob", "Size": f.size, "Sha256": f.sha256, "IsLFS": f.large}
        for f in _listed(handler, request.repository)
    ]
    data = {"Files": rows, "LatestCommitter": {"Id": request.repository.commit}}
    handler.send_json({"Code": 200, "Success": True, "Data": data})


def _modelscope_file(handler: Handler, request: Request) -> None:
    handler.send_file(request.repository, request.repository.files.get(request.query.get("FilePath", "")), BINARY)


def _lfs_batch(handler: Handler, request: Request) -> None:
    rows: list[dict[str, Any]] = []
    for wanted in json.loads(request.body)["objects"]:
        row: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
        if request.repository.by_oid(wanted["oid"]):
            address = f"{handler.server.url}/{request.repository.name}.lfs/{wanted['oid']}"
            row |= {"authenticated": True, "actions": {"download": {"href": address}}}
        else:
            row["error"] = {"code": 404, "message": "object does not exist"}
        rows.append(row)
    handler.send_json({"transfer": "basic", "objects": rows}, kind="application/vnd.git-lfs+json")


def _lfs_object(handler: Handler, request: Request) -> None:
    handler.send_file(request.repository, request.repository.by_oid(request.path), BINARY)


def _git(handler: Handler, request: Request) -> None:
    """git's own CGI program answers; this hands the request over and the answer back."""
    with handler.server.lock:
        bare = request.repository.make_bare(handler.server.git_root)
    environment = _cgi(handler, bare, request)
    done = subprocess.run(
        ["git", "http-backend"], input=request.body, env=environment, capture_output=True, check=False, timeout=GIT_SECONDS
    )
    head, _, content = done.stdout.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
    status = int(headers.pop("Status", "200").split()[0])
    handler.send_body(content, status if done.returncode == 0 else 500, headers)


MODEL = r"(?P<name>[^/]+/[^/]+)"
ROUTES: tuple[Route, ...] = (
    Route(rf"/api/models/{MODEL}(/revision/[^/]+)?", _huggingface_info, INFO),
    Route(rf"/api/models/{MODEL}/tree/[^/]+", _huggingface_tree, LIST),
    Route(rf"/api/v1/models/{MODEL}", _modelscope_info, INFO),
    Route(rf"/api/v1/models/{MODEL}/repo/files", _modelscope_files, LIST),
    Route(rf"/api/v1/models/{MODEL}/repo", _modelscope_file),
    Route(rf"/{MODEL}\.git/info/lfs/objects/batch", _lfs_batch, BATCH),
    Route(rf"/{MODEL}\.lfs/(?P<path>[0-9a-f]{{64}})", _lfs_object),
    Route(rf"/{MODEL}\.git/(?P<path>info/refs|git-upload-pack|HEAD|objects/.*)", _git, GIT),
    Route(rf"/{MODEL}/resolve/[^/]+/(?P<path>.+)", _huggingface_file),
)


def _listed(handler: Handler, repository: Repository) -> list[HubFile]:
    """The files as the list tells them, which need not be as they are."""
    faults = handler.server.faults
    if faults.take(LIST, "empty"):
        return []
    files = []
    for path, file in repository.files.items():
        if faults.take(path, "unlisted"):
            continue
        if wrong := faults.take(path, "wrong size"):
            file = replace(file, size=wrong.after)
        if faults.take(path, "wrong hash"):
            file = replace(file, sha256=file.sha256[::-1], blob=file.blob[::-1])
        files.append(file)
    return [*files, *(HubFile(path, 3, "0" * 64, "0" * 40, False) for path in faults.added())]


def _cgi(handler: Handler, bare: Path, request: Request) -> dict[str, str]:
    given = {
        "GIT_PROJECT_ROOT": str(bare.parent),
        "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_INFO": f"/{bare.name}/{request.path}",
        "QUERY_STRING": urlsplit(handler.path).query,
        "REQUEST_METHOD": handler.command,
        "CONTENT_TYPE": handler.headers.get("Content-Type", ""),
        "CONTENT_LENGTH": str(len(request.body)),
        "HTTP_CONTENT_ENCODING": handler.headers.get("Content-Encoding", ""),
        "GIT_PROTOCOL": handler.headers.get("Git-Protocol", ""),
        "REMOTE_ADDR": "127.0.0.1",
    }
    return {"PATH": os.environ.get("PATH", ""), "HOME": str(bare.parent), "GIT_CONFIG_NOSYSTEM": "1", **given}
