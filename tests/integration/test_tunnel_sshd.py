"""The printed commands, run as printed, against a real sshd of this test's own: they forward, and they say so when they cannot."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from labkit.machine.tunnels import Tunnel, tunnel

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(
    SSHD is None or not shutil.which("ssh") or os.geteuid() != 0, reason="needs root, and sshd (apt-get install -y openssh-server)"
)
CONFIG = """
ListenAddress 127.0.0.1:{port}
ListenAddress [::1]:{port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/id.pub
PidFile none
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
"""


class Box:
    """The rented machine: an sshd on a high loopback port, and a page that says its name."""

    def __init__(self, folder: Path, ssh_port: int, page_port: int) -> None:
        self.folder, self.ssh_port, self.page_port = folder, ssh_port, page_port

    def line(self, host: str = "127.0.0.1") -> str:
        return (
            f"ssh -p {self.ssh_port} root@{host} -i {self.folder}/id -o IdentitiesOnly=yes -o BatchMode=yes "
            f"-o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={self.folder}/known"
        )


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"the page of the rented machine")

    def log_message(self, *arguments: object) -> None:
        pass


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(true: Callable[[], object], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "id"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    made = Box(folder, free_port(), server.server_address[1])
    (folder / "config").write_text(CONFIG.format(port=made.ssh_port, folder=folder))
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    assert SSHD
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "config")], stderr=subprocess.DEVNULL)
    try:
        assert wait_until(lambda: listens(made.ssh_port)), "sshd did not start"
        yield made
    finally:
        process.terminate()
        process.wait()
        server.shutdown()


def listens(port: int) -> set[str]:
    """The addresses on which `port` is open."""
    return {c.laddr.ip for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN and c.laddr.port == port}


@contextmanager
def running(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def pasted(found: Tunnel) -> list[str]:
    """The printed line, given to a shell as a student pastes it."""
    return ["bash", "-c", f"exec {found.command}"]


def page(port: int) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return str(opener.open(f"http://127.0.0.1:{port}/", timeout=10).read().decode())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "[::1]", "localhost"])
def test_the_printed_command_forwards(box: Box, host: str) -> None:
    local = free_port()
    with running(pasted(tunnel(box.line(host), [(local, box.page_port)]))):
        assert wait_until(lambda: listens(local))
        assert listens(local) == {"127.0.0.1"}, "nobody else's computer may use it"
        assert page(local) == "the page of the rented machine"


def test_two_ports_at_once(box: Box) -> None:
    one, two = free_port(), free_port()
    with running(pasted(tunnel(box.line(), [(one, box.page_port), (two, box.page_port)]))):
        assert wait_until(lambda: listens(one) and listens(two))
        assert page(one) == page(two) == "the page of the rented machine"


def test_the_config_block_forwards(box: Box) -> None:
    local = free_port()
    found = tunnel(box.line(), [(local, box.page_port)])
    (box.folder / "user").write_text(found.config + "\n")
    with running(["ssh", "-F", str(box.folder / "user"), "-N", found.alias]):
        assert wait_until(lambda: listens(local))
        assert listens(local) == {"127.0.0.1"} and page(local) == "the page of the rented machine"


def test_an_alias_of_the_user_s_configuration(box: Box) -> None:
    words = box.line().split()
    rows = [f"HostName 127.0.0.1\nPort {box.ssh_port}\nUser root\nIdentityFile {box.folder}/id"]
    rows += [word.replace("=", " ") for word in words if "=" in word]
    (box.folder / "aliases").write_text("Host my-box\n" + "\n".join(rows) + "\n")
    local = free_port()
    found = tunnel("ssh my-box", [(local, box.page_port)])
    with running(["ssh", "-F", str(box.folder / "aliases"), *found.words[1:]]):
        assert wait_until(lambda: listens(local)) and page(local) == "the page of the rented machine"


def test_a_taken_local_port_ends_with_a_message(box: Box) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with running(pasted(tunnel(box.line(), [(other.getsockname()[1], box.page_port)]))) as process:
            assert process.wait(timeout=30) == 255
            assert process.stderr and "Address already in use" in process.stderr.read()


def test_nothing_behind_the_tunnel_is_told_apart_from_no_tunnel(box: Box) -> None:
    local, nobody = free_port(), free_port()
    with running(pasted(tunnel(box.line(), [(local, nobody)]))) as process:
        assert wait_until(lambda: listens(local))
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            page(local)
    assert process.stderr and "open failed: connect failed" in process.stderr.read()


def test_sharing_opens_the_port_to_others_and_only_then(box: Box) -> None:
    local = free_port()
    with running(pasted(tunnel(box.line(), [(local, box.page_port)], share=True))):
        assert wait_until(lambda: listens(local)) and listens(local) & {"0.0.0.0", "::"}
