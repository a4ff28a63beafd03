"""A model hub on loopback that the real download clients speak to: Hugging Face, ModelScope and git with LFS.

Covers: what `huggingface_hub.snapshot_download`, `modelscope.snapshot_download`, `git clone` and `git lfs fetch` ask for
when they read one public model, with byte ranges, and faults on demand.
Does not cover: uploads, accounts, data sets, Xet, several revisions.
Endpoints are those of huggingface_hub 2.4, modelscope-hub 0.5 and git-lfs 3.3. Used through `labkit.open_hub` (notebook 02).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ..common.errors import SettingError

BLOCK = 64 * 1024
LFS_PATTERNS = ("*.safetensors", "tokenizer.json")
ATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS)
FAULTS = ("drop", "truncate", "corrupt", "missing", "slow", "unlisted")


@dataclass
class Fault:
    """One thing that goes wrong with the files that match `pattern`, `times` times (None: until healed).

    `kind` is one of
        drop       the connection ends after `after` bytes of the body
        truncate   the hub holds only the first `after` bytes and says so, though it lists the full size
        corrupt    the byte at offset `after` of the file is wrong
        missing    404, though it is listed
        slow       `after` bytes a second
        unlisted   the file is left out of the list, as when a hub's list is cut short
    """

    kind: str
    pattern: str = "*"
    after: int = 0
    times: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in FAULTS:
            raise SettingError(f"There is no fault {self.kind!r}.", f"Use one of: {', '.join(FAULTS)}.")


@dataclass(frozen=True)
class HubFile:
    """One file of a served model: its size in bytes, its SHA-256, and its git blob id."""

    path: str
    size: int
    sha256: str
    blob: str
    large: bool


class Repository:
    """One model folder as the hubs see it. Hidden files and `labkit.manifest.json` are not served."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder

    @cached_property
    def entries(self) -> dict[str, HubFile]:
        """The files by path; large ones are those that a hub keeps in LFS."""
        paths = sorted(p for p in self.folder.rglob("*") if p.is_file() and not _hidden(p.relative_to(self.folder)))
        return {entry.path: entry for entry in (self._entry(path) for path in paths)}

    @cached_property
    def commit(self) -> str:
        """The revision: a hash over the file list."""
        return hashlib.sha1(repr(sorted(self.entries.items())).encode()).hexdigest()

    def by_oid(self, oid: str) -> HubFile | None:
        return next((entry for entry in self.entries.values() if entry.large and entry.sha256 == oid), None)

    def _entry(self, path: Path) -> HubFile:
        content = path.read_bytes()
        name = path.relative_to(self.folder).as_posix()
        large = any(fnmatch(name, pattern) for pattern in LFS_PATTERNS)
        sha256 = hashlib.sha256(content).hexdigest()
        blob = _pointer(sha256, len(content)) if large else content
        return HubFile(name, len(content), sha256, hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest(), large)


@dataclass
class Traffic:
    """What was asked of the hub since it opened: requests as "GET /path", and bytes of file bodies that went out."""

    requests: list[str] = field(default_factory=list)
    bytes_sent: int = 0


class HubServer(ThreadingHTTPServer):
    """Serves `repositories` on a free port of 127.0.0.1; `git_root` holds the bare repositories made when git first asks."""

    daemon_threads = True

    def __init__(self, repositories: dict[str, Repository], git_root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.git_root = repositories, git_root
        self.traffic, self.faults = Traffic(), list[Fault]()
        self.lock = threading.Lock()
        self._open: set[socket.socket] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def take_fault(self, path: str, *kinds: str) -> Fault | None:
        """The first fault of `kinds` in force for `path`; taking it uses up one of its times."""
        with self.lock:
            for fault in self.faults:
                if fault.kind in kinds and fnmatch(path, fault.pattern) and fault.times != 0:
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault
        return None

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self.lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is everyday business here."""

    def close(self) -> None:
        """Stop listening and end every open connection."""
        self.shutdown()
        self.server_close()
        with self.lock:
            for connection in self._open:
                _hang_up(connection)


class Handler(BaseHTTPRequestHandler):
    """The three protocols, told apart by their paths."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    server: HubServer

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        """Nothing on the notebook's error stream; `Traffic` keeps the list."""

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), {key: values[0] for key, values in parse_qs(parts.query).items()}
        with self.server.lock:
            self.server.traffic.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for pattern, route in ROUTES:
            found = re.fullmatch(pattern, path)
            repository = self.server.repositories.get(found["name"]) if found else None
            if found and repository:
                route(self, repository, found.groupdict(), query, body)
                return
        self.send_json({"error": f"no such model or page: {path}"}, 404, {"X-Error-Code": "RepoNotFound"})

    def send_json(self, content: Any, status: int = 200, headers: dict[str, str] | None = None, kind: str = "application/json") -> None:
        """One JSON answer."""
        self.send_body(json.dumps(content).encode(), status, {"Content-Type": kind, **(headers or {})})

    def send_body(self, body: bytes, status: int, headers: dict[str, str]) -> None:
        """One answer held in memory."""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_file(self, repository: Repository, entry: HubFile | None, headers: dict[str, str] | None = None) -> None:
        """One file with ranges, and with whatever fault is in force for it."""
        if entry is None or self.server.take_fault(entry.path, "missing"):
            self.send_json({"Code": 404, "Message": "file not found"}, 404, {"X-Error-Code": "EntryNotFound", **(headers or {})})
            return
        cut = next((f for f in self.server.faults if f.kind == "truncate" and fnmatch(entry.path, f.pattern)), None)
        size = min(entry.size, cut.after) if cut else entry.size
        start, end = _range(self.headers.get("Range"), size)
        if start >= size > 0 or (start and not size):
            self.send_body(b"", 416, {"Content-Range": f"bytes */{size}"})
            return
        self.send_response(206 if "Range" in self.headers else 200)
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        for name, value in {**(headers or {}), "Accept-Ranges": "bytes", "Content-Length": str(end - start)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._send_range(repository.folder / entry.path, entry.path, start, end)

    def _send_range(self, file: Path, path: str, start: int, end: int) -> None:
        drop = self.server.take_fault(path, "drop")
        wrong = self.server.take_fault(path, "corrupt")
        slow = self.server.take_fault(path, "slow")
        stop = min(end, start + drop.after) if drop else end
        for offset, block in _blocks(file, start, stop, max(1, slow.after // 20) if slow else BLOCK):
            if wrong and offset <= wrong.after < offset + len(block):
                here = wrong.after - offset
                block = block[:here] + bytes([block[here] ^ 0xFF]) + block[here + 1 :]
            self.wfile.write(block)
            with self.server.lock:
                self.server.traffic.bytes_sent += len(block)
            if slow:
                time.sleep(len(block) / slow.after)
        if drop:
            self.wfile.flush()
            self.close_connection = True
            _hang_up(self.connection)


Match = dict[str, str]


def _huggingface_info(handler: Handler, repository: Repository, found: Match, query: Match, body: bytes) -> None:
    siblings = [{"rfilename": path} for path in _listed(handler, repository)]
    handler.send_json({"id": repository.name, "modelId": repository.name, "sha": repository.commit, "private": False, "siblings": siblings})


def _huggingface_tree(handler: Handler, repository: Repository, found: Match, query: Match, body: bytes) -> None:
    rows = []
    for entry in _listed(handler, repository).values():
        row: dict[str, Any] = {"type": "file", "path": entry.path, "size": entry.size, "oid": entry.blob}
        if entry.large:
            row["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": len(_pointer(entry.sha256, entry.size))}
        rows.append(row)
    handler.send_json(rows)


def _huggingface_file(handler: Handler, repository: Repository, found: Match, query: Match, body: bytes) -> None:
    entry = repository.entries.get(found["path"])
    headers = {"X-Repo-Commit": repository.commit}
    if entry:
        tag = f'"{entry.sha256 if entry.large else entry.blob}"'
        headers |= {"ETag": tag, "X-Linked-ETag": tag, "X-Linked-Size": str(entry.size), "Content-Type": "application/octet-stream"}
    handler.send_file(repository, entry, headers)


def _modelscope_info(handler: Handler, repository: Repository, found: Match, query: Match, body: bytes) -> None:
    owner, name = repository.name.split("/")
    handler.send_json({"Code": 200, "Success": True, "Data": {"Path": owner, "Name": name, "Revision": "master"}})


def _modelscope_files(handler: Handler, repository: Repository, found: Match, query: Match, body: bytes) -> None:
    rows = [
        {"Path": e.path, "Name": e.path.rsplit("/", 1)[-1], "Type": "blob", "Size": e.size, "Sha256": e.sha256, "IsLFS": e.large}
        for e in _listed(handler, repository).values()
    ]
    handler.send_json({"Code": 200, "Success": True, "Data": {"Files": rows, "LatestCommitter": {"Id": repository.commit}}})


def _modelscope_file(handler: Handler, repository: Repository, found: Match, query: Match, body: bytes) -> None:
    handler.send_file(repository, repository.entries.get(query.get("FilePath", "")), {"Content-Type": "application/octet-stream"})


def _lfs_batch(handler: Handler, repository: Repository, found: Match, query: Match, body: bytes) -> None:
    rows: list[dict[str, Any]] = []
    for wanted in json.loads(body)["objects"]:
        row: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
        if repository.by_oid(wanted["oid"]):
            row |= {"authenticated": True, "actions": {"download": {"href": f"{handler.server.url}/{repository.name}.lfs/{wanted['oid']}"}}}
        else:
            row["error"] = {"code": 404, "message": "object does not exist"}
        rows.append(row)
    handler.send_json({"transfer": "basic", "objects": rows}, kind="application/vnd.git-lfs+json")


def _lfs_object(handler: Handler, repository: Repository, found: Match, query: Match, body: bytes) -> None:
    handler.send_file(repository, repository.by_oid(found["path"]), {"Content-Type": "application/octet-stream"})


def _git(handler: Handler, repository: Repository, found: Match, query: Match, body: bytes) -> None:
    """git's own CGI program answers; this hands the request over and the answer back."""
    with handler.server.lock:
        bare = _bare_repository(repository, handler.server.git_root)
    environment = _cgi(handler, bare, found["path"], len(body))
    answer = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=False)
    head, _, content = answer.stdout.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
    status = int(headers.pop("Status", "200").split()[0])
    handler.send_body(content, status if answer.returncode == 0 else 500, headers)


ROUTES = (
    (r"/api/models/(?P<name>[^/]+/[^/]+)(/revision/[^/]+)?", _huggingface_info),
    (r"/api/models/(?P<name>[^/]+/[^/]+)/tree/[^/]+", _huggingface_tree),
    (r"/api/v1/models/(?P<name>[^/]+/[^/]+)", _modelscope_info),
    (r"/api/v1/models/(?P<name>[^/]+/[^/]+)/repo/files", _modelscope_files),
    (r"/api/v1/models/(?P<name>[^/]+/[^/]+)/repo", _modelscope_file),
    (r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", _lfs_batch),
    (r"/(?P<name>[^/]+/[^/]+)\.lfs/(?P<path>[0-9a-f]{64})", _lfs_object),
    (r"/(?P<name>[^/]+/[^/]+)\.git/(?P<path>info/refs|git-upload-pack|HEAD|objects/.*)", _git),
    (r"/(?P<name>[^/]+/[^/]+)/resolve/[^/]+/(?P<path>.+)", _huggingface_file),
)


def _listed(handler: Handler, repository: Repository) -> dict[str, HubFile]:
    return {path: entry for path, entry in repository.entries.items() if not handler.server.take_fault(path, "unlisted")}


def _cgi(handler: Handler, bare: Path, path: str, length: int) -> dict[str, str]:
    given = {
        "GIT_PROJECT_ROOT": str(bare.parent),
        "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_INFO": f"/{bare.name}/{path}",
        "QUERY_STRING": urlsplit(handler.path).query,
        "REQUEST_METHOD": handler.command,
        "CONTENT_TYPE": handler.headers.get("Content-Type", ""),
        "CONTENT_LENGTH": str(length),
        "HTTP_CONTENT_ENCODING": handler.headers.get("Content-Encoding", ""),
        "GIT_PROTOCOL": handler.headers.get("Git-Protocol", ""),
        "REMOTE_ADDR": "127.0.0.1",
    }
    return {"PATH": os.environ.get("PATH", ""), "HOME": str(bare.parent), "GIT_CONFIG_NOSYSTEM": "1", **given}


def _bare_repository(repository: Repository, root: Path) -> Path:
    """The model as a bare git repository with one commit: small files as they are, large ones as LFS pointers."""
    bare = root / (repository.name.replace("/", "--") + ".git")
    if bare.exists():
        return bare
    draft = bare.with_suffix(".draft")
    _run_git(root, "init", "--quiet", "--bare", "--initial-branch=master", str(draft))
    contents = {".gitattributes": ATTRIBUTES.encode()}
    for entry in repository.entries.values():
        contents[entry.path] = _pointer(entry.sha256, entry.size) if entry.large else (repository.folder / entry.path).read_bytes()
    for path, content in contents.items():
        blob = _run_git(draft, "hash-object", "-w", "--stdin", content=content)
        _run_git(draft, "update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
    commit = _run_git(draft, "commit-tree", _run_git(draft, "write-tree"), "-m", repository.name)
    _run_git(draft, "update-ref", "refs/heads/master", commit)
    draft.rename(bare)
    return bare


def _run_git(folder: Path, *arguments: str, content: bytes = b"") -> str:
    who = {"NAME": "labkit", "EMAIL": "labkit@localhost", "DATE": "@0 +0000"}
    environment = {**os.environ, **{f"GIT_{role}_{part}": value for role in ("AUTHOR", "COMMITTER") for part, value in who.items()}}
    if arguments[0] != "init":
        environment |= {"GIT_DIR": str(folder), "GIT_INDEX_FILE": str(folder / "labkit.index")}
    done = subprocess.run(["git", *arguments], input=content, env=environment, cwd=folder, capture_output=True, check=True)
    return done.stdout.decode().strip()


def _pointer(oid: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()


def _hidden(path: Path) -> bool:
    return path.name == "labkit.manifest.json" or any(part.startswith(".") for part in path.parts)


def _range(header: str | None, size: int) -> tuple[int, int]:
    """First byte and one past the last of a `Range: bytes=a-b` header."""
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", header or "")
    if not found:
        return 0, size
    return int(found[1]), min(size, int(found[2]) + 1) if found[2] else size


def _blocks(file: Path, start: int, stop: int, length: int) -> Iterator[tuple[int, bytes]]:
    with file.open("rb") as stream:
        stream.seek(start)
        while start < stop:
            block = stream.read(min(length, stop - start))
            if not block:
                return
            yield start, block
            start += len(block)


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
