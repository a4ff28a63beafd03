"""Asking a hub for its list: whatever the hub does, the question has an end, and it is a clear error."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import pytest

from labkit.common.errors import DownloadError
from labkit.hub import listings, questions

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"


@pytest.fixture
def hub() -> Iterator[Callable[[bytes, float | None], str]]:
    """Opens a hub that answers each request with `head`, then with a blank every `pause` seconds (None: it hangs up)."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve(head: bytes, pause: float | None) -> None:
            while not over.is_set():
                with suppress(OSError):
                    connection, _ = server.accept()
                    threading.Thread(target=answer, args=(connection, head, pause), daemon=True).start()

        def answer(connection: socket.socket, head: bytes, pause: float | None) -> None:
            with closing(connection), suppress(OSError):
                connection.recv(65536)
                connection.sendall(head)
                while pause is not None and not over.wait(pause):
                    connection.sendall(b" ")

        def opened(head: bytes, pause: float | None) -> str:
            threading.Thread(target=serve, args=(head, pause), daemon=True).start()
            return f"http://127.0.0.1:{server.getsockname()[1]}"

        yield opened
        over.set()
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("ask", [listings.modelscope, listings.huggingface])
@pytest.mark.parametrize(
    ("head", "pause"), [(b"", 60.0), (b"HTTP/1.1 200 OK\r\nX-Slow: ", 0.05), (HEAD, 0.05)], ids=["mute", "head", "body"]
)
def test_a_hub_that_drips_or_never_answers_is_given_up(
    hub: Callable[[bytes, float | None], str], head: bytes, pause: float, ask: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "DEADLINE_SECONDS", 0.6)
    endpoint, started = hub(head, pause), time.monotonic()
    with pytest.raises(DownloadError, match=f"{endpoint} gave no list of files: no whole list within") as caught:
        ask(endpoint, "labkit/tiny", proxy=False)  # type: ignore[operator]
    assert time.monotonic() - started < 2 and "source=" in caught.value.fix


def test_a_mute_hub_is_asked_again_before_the_deadline(hub: Callable[[bytes, float | None], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "READ_SECONDS", 0.1)
    monkeypatch.setattr(questions.time, "sleep", lambda seconds: None)
    started = time.monotonic()
    with pytest.raises(DownloadError, match="timed out"):
        listings.modelscope(hub(b"", 60.0), "labkit/tiny")
    assert 0.25 < time.monotonic() - started < 2


@pytest.mark.parametrize("head", [HEAD + b'{"Data"', b"nonsense\r\n\r\n", b""], ids=["half a list", "no HTTP", "nothing"])
def test_a_hub_that_hangs_up_is_a_clear_error(
    hub: Callable[[bytes, float | None], str], head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions.time, "sleep", lambda seconds: None)
    with pytest.raises(DownloadError, match="gave no list of files|does not answer as a web server does: it says 'nonsense'") as caught:
        listings.modelscope(hub(head, None), "labkit/tiny")
    assert caught.value.fix.count("source=") == 1
