"""What Open-WebUI's answers mean, said before and after it is asked."""

from __future__ import annotations

import socket
import sqlite3
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from labkit.common.errors import NoSpace, NotRunning
from labkit.webui import api, connections
from labkit.webui.api import Api, ApiError
from labkit.webui.connections import Connection, clean, same_place, why
from labkit.webui.database import DatabaseUnusable


@pytest.mark.parametrize(
    ("written", "stored"), [("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1"), (" http://h/v1// ", "http://h/v1"), ("x", "x")]
)
def test_a_base_url_is_stored_without_trailing_slashes(written: str, stored: str) -> None:
    assert clean(written) == stored


def test_localhost_and_the_loopback_address_are_one_place() -> None:
    one = Connection("http://localhost:8000/v1/")
    assert same_place(one, Connection("http://127.0.0.1:8000/v1"))
    assert not same_place(one, Connection("http://127.0.0.1:30000/v1")) and not same_place(one, Connection("http://127.0.0.1:8000"))


def test_a_connection_does_not_show_its_key() -> None:
    assert "sk-secret" not in repr(Connection("http://h/v1", "sk-secret"))


@pytest.mark.parametrize(
    ("url", "status", "says"),
    [
        ("http://127.0.0.1:8000/v1", 401, "key is wrong"),
        ("http://127.0.0.1:8000", 404, "must end in /v1"),
        ("http://127.0.0.1:8000/v1/", 404, "ends with a slash"),
        ("http://127.0.0.1:1/v1", 500, "Nothing listens on port 1"),
        ("127.0.0.1:8000/v1", 500, "no address"),
        ("http://no.such.host/v1", 500, "cannot be reached"),
    ],
)
def test_each_answer_of_verify_has_its_own_cause_and_a_fix(url: str, status: int, says: str) -> None:
    cause, fix = why(url, status, "Open WebUI: Server Connection Error")
    assert says in cause and fix


def test_something_else_on_the_engine_s_port_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "PROBE_SECONDS", 0.2)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        cause, _ = why(f"http://127.0.0.1:{other.getsockname()[1]}/v1", 500, "x")
    assert "is taken by pid" in cause


@pytest.mark.parametrize(
    ("written", "status", "answer", "cause", "fix"),
    [
        ("https://127.0.0.1:N/v1", 404, "Not Found", "speaks http, and the address says https", "Write http://127.0.0.1:N/v1"),
        ("https://localhost:N/v1/", 401, "Unauthorized", "speaks http, and the address says https", "Write http://localhost:N/v1"),
        ("https://127.0.0.1:N/v1", 200, "ok", "speaks http, and the address says https", "Write http://127.0.0.1:N/v1"),
        ("http://127.0.0.1:N/v1", 400, "The plain HTTP request was sent to HTTPS port", "speaks https", "Write https://127.0.0.1:N/v1"),
        ("http://127.0.0.1:N/v1", 400, "Client sent an HTTP request to an HTTPS server.", "speaks https", "Write https://127.0.0.1:N/v1"),
        ("https://127.0.0.1:N/v1", 400, "Client sent an HTTP request to an HTTPS server.", "is taken by pid", ""),
        ("http://127.0.0.1:N/v1", 200, "ok", "is taken by pid", ""),
    ],
)
def test_a_wrong_scheme_is_told(written: str, status: int, answer: str, cause: str, fix: str) -> None:
    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        port = str(server.server_port)
        told = why(written.replace("N", port), 500, "Server Connection Error")
        server.shutdown()
    assert cause in told[0] and told[1].startswith(fix.replace("N", port))


def test_nobody_there_is_an_error_of_the_family() -> None:
    with pytest.raises(NotRunning, match="does not answer"):
        Api("http://127.0.0.1:1").version()


def test_an_error_with_a_locked_database_or_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a full tmpfs Open-WebUI 0.12.4 answered 500 "Internal Server Error" and no more."""

    class Failing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(500, "Internal Server Error")

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Failing)
    Thread(target=server.serve_forever, daemon=True).start()
    page = Api(f"http://127.0.0.1:{server.server_address[1]}", tmp_path)
    with pytest.raises(ApiError, match="HTTP 500"):
        page.call("GET", "/", what="save a chat")
    with closing(sqlite3.connect(tmp_path / "webui.db", isolation_level=None)) as other:
        other.execute("begin exclusive")
        with pytest.raises(DatabaseUnusable, match="is locked; it is open in"):
            page.call("GET", "/", what="save a chat")
    monkeypatch.setattr(api, "FULL_BYTES", 1 << 60)
    with pytest.raises(NoSpace, match="could not save a chat"):
        page.call("GET", "/", what="save a chat")
    server.shutdown()
