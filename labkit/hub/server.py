"""The HTTP server of the loopback hub: requests to routes, files with byte ranges, and whatever fault is in force for them.

Covers: connections, traffic, ranges, faults in what is sent. Does not cover: what the protocols ask for (`routes`).
Used by notebook 02 through `labkit.open_hub`.
"""

from __future__ import annotations

import gzip
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .faults import Faults
from .repository import HubFile, Repository

BLOCK = 64 * 1024


@dataclass
class Traffic:
    """What was asked of the hub since it opened: requests as "GET /path", and bytes of file bodies that went out."""

    requests: list[str] = field(default_factory=list)
    bytes_sent: int = 0


@dataclass(frozen=True)
class Request:
    """What a route answers: the model, the `path` that its pattern found in the address ("" if none), the query, the body.

    `subject` is what faults are held against: the file's path, or a word of `faults` for everything else.
    """

    repository: Repository
    path: str
    query: Mapping[str, str]
    body: bytes
    subject: str


Answer = Callable[["Handler", Request], None]


@dataclass(frozen=True)
class Route:
    """Paths that fit `pattern`, with a group `name` for the model, and who answers; `subject` "" is a file."""

    pattern: str
    answer: Answer
    subject: str = ""


class HubServer(ThreadingHTTPServer):
    """Serves `repositories` on a free port of 127.0.0.1; `git_root` holds the bare repositories made when git first asks.

    The first of `routes` that matches counts; `spoil` may answer in its place.
    """

    daemon_threads = True

    def __init__(
        self, repositories: Mapping[str, Repository], git_root: Path, routes: Sequence[Route], spoil: Callable[[Handler, Request], bool]
    ) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.git_root, self.routes, self.spoil = repositories, git_root, routes, spoil
        self.traffic, self.faults = Traffic(), Faults()
        self.lock, self.closing = threading.Lock(), threading.Event()
        self._open: set[socket.socket] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

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
        self.closing.set()
        self.shutdown()
        self.server_close()
        with self.lock:
            for connection in self._open:
                _hang_up(connection)


class Handler(BaseHTTPRequestHandler):
    """One connection: finds the route, and sends for it."""

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
        for route in self.server.routes:
            match = re.fullmatch(route.pattern, path)
            repository = self.server.repositories.get(match["name"]) if match else None
            if match and repository:
                found = match.groupdict().get("path") or ""
                large = repository.by_oid(found)
                subject = route.subject or (large.path if large else query.get("FilePath", found))
                request = Request(repository, found, query, body, subject)
                if not self.server.spoil(self, request):
                    route.answer(self, request)
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

    def send_file(self, repository: Repository, file: HubFile | None, headers: dict[str, str] | None = None) -> None:
        """One file with ranges, and with whatever fault is in force for it."""
        if file is None or self.server.faults.take(file.path, "missing"):
            self.send_json({"Code": 404, "Message": "file not found"}, 404, {"X-Error-Code": "EntryNotFound", **(headers or {})})
            return
        cut, long = self.server.faults.take(file.path, "truncate"), self.server.faults.take(file.path, "long")
        size = min(file.size, cut.after) if cut else file.size
        start, end = _range(self.headers.get("Range"), size)
        if start >= size > 0 or (start and not size):
            self.send_body(b"", 416, {"Content-Range": f"bytes */{size}"})
            return
        if self.server.faults.take(file.path, "gzip"):
            packed = gzip.compress((repository.folder / file.path).read_bytes())
            self.send_body(packed, 200, {**(headers or {}), "Content-Encoding": "gzip"})
            return
        self.send_response(206 if "Range" in self.headers else 200)
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        length = end - start + (long.after if long else 0)
        for name, value in {**(headers or {}), "Accept-Ranges": "bytes", "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._send_range(repository.folder / file.path, file.path, start, end)
            if long:
                self._end()

    def _send_range(self, file: Path, path: str, start: int, end: int) -> None:
        drop, reset, stall, wrong, slow = (self.server.faults.take(path, kind) for kind in ("drop", "reset", "stall", "corrupt", "slow"))
        broken = drop or reset or stall
        stop = min(end, start + broken.after) if broken else end
        for offset, block in _blocks(file, start, stop, max(1, slow.after // 20) if slow else BLOCK):
            if wrong and offset <= wrong.after < offset + len(block):
                here = wrong.after - offset
                block = block[:here] + bytes([block[here] ^ 0xFF]) + block[here + 1 :]
            self.wfile.write(block)
            with self.server.lock:
                self.server.traffic.bytes_sent += len(block)
            if slow:
                time.sleep(len(block) / slow.after)
        if stall:
            self.wfile.flush()
            self.server.closing.wait()
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        if broken:
            self._end()

    def _end(self) -> None:
        """End the connection, whatever was promised."""
        with suppress(OSError, ValueError):
            self.wfile.flush()
        self.close_connection = True
        _hang_up(self.connection)


def _range(header: str | None, size: int) -> tuple[int, int]:
    """First byte and one past the last of a `Range: bytes=a-b` header."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", header or "")
    if not match:
        return 0, size
    return int(match[1]), min(size, int(match[2]) + 1) if match[2] else size


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
