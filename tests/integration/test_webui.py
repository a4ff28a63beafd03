"""A real Open-WebUI before a real vLLM with the course model: what notebook 05 relies on, and what students do wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

import labkit
from labkit import webui
from labkit.common.errors import ConnectionFailed, LabError, SignInFailed, StartFailed
from labkit.machine.tunnels import local_ports
from labkit.runtimes import environments
from labkit.serving.registry import ServerFolder
from labkit.serving.server import Server
from labkit.webui.data import _unfinished
from labkit.webui.launch import PageLaunch
from labkit.webui.page import WebUI

from .conftest import wait_until

BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
PICTURE = Path(__file__).resolve().parents[2] / "runs" / "browser" / "open-webui.png"
QUESTIONS = ["What is a KV cache?", "Why is it paged? 为什么？"]


@pytest.fixture(scope="module")
def page(server: Server) -> Iterator[WebUI]:
    started = webui.serve(owner="kernel")
    yield started
    started.stop()


def test_it_is_proven_in_every_point(page: WebUI) -> None:
    text = "\n".join(page.prove())
    for word in ("has an account", "connection vllm", "vllm.tiny is in the menu", "through the API", "as the page asks"):
        assert word in text


def test_a_half_changed_database_is_told_from_a_ready_one(page: WebUI, tmp_path: Path) -> None:
    """By this version's own files: what `Data.prepare` relies on when an update was killed."""
    steps = PageLaunch(labkit.settings(), page.data, environments.python("open_webui"), page.server.port).migrations
    assert not _unfinished(page.data.database, steps)
    with closing(sqlite3.connect(page.data.database)) as source, closing(sqlite3.connect(tmp_path / "half.db")) as copy, copy:
        source.backup(copy)
        copy.execute("update alembic_version set version_num = '7e5b5dc7342b'")  # the first step of all versions
    assert _unfinished(tmp_path / "half.db", steps)


def test_serving_again_finds_it(page: WebUI) -> None:
    assert webui.serve(owner="kernel").server.pid == webui.attach().server.pid == page.server.pid


def test_nobody_else_can_reach_it_or_make_an_account(page: WebUI) -> None:
    addresses = {c.laddr.ip for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN and c.laddr.port == page.server.port}
    assert addresses == {"127.0.0.1"}
    with pytest.raises(LabError, match="HTTP 403"):
        page.api.call("POST", "/api/v1/auths/signup", {"name": "x", "email": "x@y.z", "password": "x"}, what="sign up")


def test_a_foreign_page_is_not_allowed_to_use_it(page: WebUI) -> None:
    import httpx

    def allowed(origin: str) -> str | None:
        return httpx.get(page.url + "/api/config", headers={"Origin": origin}, trust_env=False).headers.get("access-control-allow-origin")

    assert allowed("http://evil.example") is None
    for number in local_ports(page.server.port):
        assert allowed(f"http://localhost:{number}") == f"http://localhost:{number}", "a tunnel may begin at another port"


def test_its_files_are_its_owner_s_alone(page: WebUI) -> None:
    files = [page.data.folder, *page.data.folder.rglob("*"), page.password_file, page.server.key_file]
    assert page.data.database in files and [path for path in files if path.stat().st_mode & 0o077 and not path.is_symlink()] == []


def test_no_secret_is_in_a_log_or_a_command_line(page: WebUI, server: Server) -> None:
    secrets = [page.data.password, page.server.key, server.key]
    texts = [page.server.log.read_text(), page.server.errors.read_text(), page.server.shown]
    texts += [" ".join(process.cmdline()) for process in page.server.processes()]
    assert not [secret for secret in secrets if any(secret in text for text in texts)]


def test_it_takes_less_than_400_mib(page: WebUI) -> None:
    assert sum(process.memory_info().rss for process in page.server.processes()) < 400 * 2**20


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium (apt-get install -y chromium)")
def test_a_visit_with_a_browser(page: WebUI) -> None:
    """Sign in, the model is chosen already, two turns, replies in pieces that only grow; nothing goes to another machine."""
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    asked = {"url": page.url, "email": page.email, "password": page.data.password, "browser": BROWSER}
    with Outgoing(page.server) as outgoing:
        seen = visit(asked | {"picture": str(PICTURE), "questions": QUESTIONS})
    assert seen["model"] == "Selected model: vllm.tiny" and set(seen["toasts"]) <= {"You're now logged in."}
    assert seen["hosts"] == [page.url.removeprefix("http://")] and outgoing.far == set()
    assert seen["pieces"] > 2 * len(QUESTIONS), "the replies were streamed"
    before = ""
    for turn in seen["turns"]:
        grown = [state for state in turn["states"] if state != before and len(state) > 40]
        assert grown and all(later.startswith(earlier) for earlier, later in zip(grown, grown[1:], strict=False)), turn
        before = turn["reply"]
    assert len({turn["reply"] for turn in seen["turns"]}) == 2 and PICTURE.stat().st_size > 10_000


def visit(asked: dict[str, Any]) -> dict[str, Any]:
    script = str(Path(__file__).with_name("browse.py"))
    done = subprocess.run(
        [str(environments.python("browser")), script], input=json.dumps(asked), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout))


class Outgoing:
    """Watches a server's own connections: `far` are the remote addresses that are not this machine."""

    def __init__(self, server: Server) -> None:
        self.server, self.far, self._done = server, set[str](), threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Outgoing:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.05):
            for process in self.server.processes():
                remote = {c.raddr.ip for c in process.net_connections("inet") if c.raddr}
                self.far |= {address for address in remote if not address.startswith("127.") and address != "::1"}


def test_each_wrong_connection_has_its_own_reason(page: WebUI, server: Server) -> None:
    for url, key, says in (
        (server.api, "sk-wrong", "key is wrong"),
        (server.url, server.key, "must end in /v1"),
        (server.api + "/", server.key, "ends with a slash"),
        ("http://127.0.0.1:1/v1", server.key, "Nothing listens on port 1"),
        (page.url + "/v1", server.key, "no OpenAI-compatible server"),
        ("127.0.0.1/v1", server.key, "no address"),
    ):
        verdict = page.verify(url, key)
        assert not verdict.ok and says in verdict.cause and verdict.fix, (url, verdict)
        if not url.endswith("/"):  # that one is put right
            with pytest.raises(ConnectionFailed):
                page.add(url, key)
    assert page.verify(server.api, server.key).models == ("tiny",)
    assert [row.prefix for row in page.connections()] == ["vllm"], "what does not work is not saved"


def test_a_connection_made_by_hand_stays_until_it_is_removed(page: WebUI, server: Server) -> None:
    with Relay(server.port) as relay:
        page.add(f"http://127.0.0.1:{relay.port}/v1/", server.key, "mine")
        assert page.models() == ["vllm.tiny", "mine.tiny"]
        assert page.follow() == ["vllm.tiny"] and page.models() == ["vllm.tiny", "mine.tiny"]
    assert any("made by hand" in line or "mine" in line for line in page.prove())
    page.remove(f"http://localhost:{relay.port}/v1")
    assert page.models() == ["vllm.tiny"]
    with pytest.raises(LabError, match="no connection"):
        page.remove("http://127.0.0.1:1/v1")


class Relay:
    """A second way to the same engine, as if it were another one: bytes in, bytes out."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            other = socket.create_connection(("127.0.0.1", self.target))
            for one, two in ((client, other), (other, client)):
                threading.Thread(target=pump, args=(one, two), daemon=True).start()


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def test_built_in_tools_break_the_page_but_not_the_api_and_follow_repairs_it(page: WebUI) -> None:
    now = page.api.call("GET", "/api/v1/configs/models")
    page.api.call("POST", "/api/v1/configs/models", now | {"DEFAULT_MODEL_METADATA": {}})
    page.models()
    assert page.api.complete("vllm.tiny", "Hello", max_tokens=4)
    with pytest.raises(ConnectionFailed, match="tool choice") as failure:
        page.api.ask_as_the_page("vllm.tiny", "Hello", max_tokens=4)
    assert "follow" in failure.value.fix
    page.follow()
    page.models()
    assert page.api.ask_as_the_page("vllm.tiny", "Hello", max_tokens=4)


def test_a_password_from_an_earlier_run_is_explained_and_can_be_replaced(page: WebUI) -> None:
    kept = page.data.password
    page.password_file.unlink()
    with pytest.raises(SignInFailed, match="has another one") as failure:
        webui.attach().models()
    assert "reset_password" in failure.value.fix and page.data.password != kept
    webui.reset_password()
    assert webui.attach().models() == ["vllm.tiny"]


def test_killed_it_leaves_nothing_and_comes_back_with_its_chats(page: WebUI) -> None:
    body = {"chat": {"title": "kept", "history": {"messages": {}, "currentId": None}, "models": [], "messages": []}}
    chat = page.api.call("POST", "/api/v1/chats/new", body)["id"]
    processes = page.server.processes()
    os.kill(page.server.pid, signal.SIGKILL)
    assert wait_until(lambda: not ServerFolder("open_webui").status().alive, 20) and not [each for each in processes if each.is_running()]
    again = webui.serve(owner="kernel")
    assert again.api.call("GET", f"/api/v1/chats/{chat}")["title"] == "kept"


def test_proxies_are_not_asked_for_this_machine(page: WebUI, monkeypatch: pytest.MonkeyPatch) -> None:
    """network_turbo sets http_proxy; Open-WebUI follows it, and would look for the engine there."""
    webui.attach().stop()
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert "vllm.tiny answered as the page asks" in webui.serve(owner="kernel").prove()


def test_a_database_of_a_newer_version_is_explained(page: WebUI, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    folder = tmp_path / "open-webui"
    folder.mkdir()
    with sqlite3.connect(page.data.database) as source, sqlite3.connect(folder / "webui.db") as copy:
        source.backup(copy)
        copy.execute("update alembic_version set version_num = 'ffffffffffff'")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = int(probe.getsockname()[1])
    with pytest.raises(StartFailed, match="newer Open-WebUI") as failure:
        webui.serve(port=free, owner="kernel")
    assert "Can't locate revision" in failure.value.line and "rename" in failure.value.fix


def test_the_page_follows_the_engines(page: WebUI, server: Server) -> None:
    """Last, because it stops the module's engine: down is told as such, and a new name is in the menu without a click."""
    now = webui.serve(owner="kernel")
    server.stop()
    with pytest.raises(ConnectionFailed, match=r"vllm: Nothing listens on port"):
        now.prove()
    assert now.follow() == [] and now.models() == [] and now.connections() == []
    other = labkit.serve("vllm", "tiny", owner="kernel", max_num_seqs=4, served_model_name="second")
    try:
        assert now.follow() == ["vllm.second"] == now.models()
        assert "vllm.second answered as the page asks" in now.prove()
    finally:
        other.stop()
        now.stop()
    assert not ServerFolder("open_webui").status().alive
