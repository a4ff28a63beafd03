"""Calls to servers that hang, drip, never end or speak something else: each comes to an end, and says how."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Event, Thread

import pytest
from stand_in import StandIn

from labkit.chat import http
from labkit.common.errors import NotRunning

OK = b"HTTP/1.1 200 OK\r\n"


def silent(connection: socket.socket) -> None:
    connection.recv(65536)
    time.sleep(30)


def drips_headers(connection: socket.socket) -> None:
    connection.sendall(OK)
    for number in range(300):
        connection.sendall(b"x-%d: y\r\n" % number)
        time.sleep(0.1)


def drips_body(connection: socket.socket) -> None:
    connection.sendall(OK + b"content-length: 300\r\n\r\n")
    for _ in range(300):
        connection.sendall(b"x")
        time.sleep(0.1)


def endless(connection: socket.socket) -> None:
    connection.sendall(OK + b"transfer-encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")


def many_headers(connection: socket.socket) -> None:
    connection.sendall(OK + b"x-y: z\r\n" * 100_000 + b"\r\n")
    time.sleep(5)


def no_http(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    time.sleep(5)


def cut(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(OK + b"content-length: 300\r\n\r\nshort")


def gone(connection: socket.socket) -> None:
    connection.recv(65536)


@pytest.fixture
def served() -> Iterator[Callable[[Callable[[socket.socket], None]], StandIn]]:
    """A server that does one thing to each connection."""
    sockets: list[socket.socket] = []

    def begin(act: Callable[[socket.socket], None]) -> StandIn:
        listener = socket.create_server(("127.0.0.1", 0))
        sockets.append(listener)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    sockets.append(connection)
                    Thread(target=serve, args=(connection,), daemon=True).start()

        def serve(connection: socket.socket) -> None:
            with suppress(OSError), connection:
                act(connection)

        Thread(target=accept, daemon=True).start()
        return StandIn(port=listener.getsockname()[1])

    yield begin
    for each in sockets:
        each.close()


def deep(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(OK + b"content-length: 200000\r\n\r\n" + b"[" * 200_000)


HANGS = [silent, drips_headers, drips_body]
ALL = [*HANGS, endless, many_headers, no_http, cut, gone]


@pytest.mark.parametrize("act", ALL, ids=lambda act: act.__name__)
def test_every_call_comes_to_an_end_and_says_how(
    served: Callable[..., StandIn], act: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MOST_BYTES", 2**22)
    server = served(act)
    with pytest.raises(NotRunning, match=f"{server.url} does not answer: .*") as failure:
        http.ask(server, "GET", "/v1/models", seconds=1.0)
    assert ("hung" in failure.value.cause) == (act in HANGS)
    assert ("no end" in failure.value.cause) == (act is endless)


@pytest.mark.parametrize("act", ALL, ids=lambda act: act.__name__)
def test_none_of_them_passes_for_healthy(
    served: Callable[..., StandIn], act: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "HEALTH_SECONDS", 0.5)
    monkeypatch.setattr(http, "MOST_BYTES", 2**22)
    assert http.healthy(served(act)) is False


def test_it_works_while_the_caller_runs_an_event_loop(served: Callable[..., StandIn]) -> None:
    def answers(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(OK + b'content-length: 11\r\n\r\n{"data": 1}')

    server = served(answers)

    async def cell() -> object:
        return http.ask(server, "GET", "/v1/models")

    assert asyncio.run(cell()) == (200, {"data": 1}) and http.healthy(server)


def test_an_answer_that_is_nested_deeper_than_python_goes_is_text(served: Callable[..., StandIn]) -> None:
    assert http.ask(served(deep), "GET", "/v1/models", seconds=10.0) == (200, "[" * 200_000)


def test_an_interrupt_does_not_wait_for_the_server(served: Callable[..., StandIn]) -> None:
    """Notebooks and `./lab up` are interrupted while a first token does not come, for which there are minutes."""
    let_go, gave_up = Event(), Event()

    def interrupts(connection: socket.socket) -> None:
        connection.recv(65536)
        os.kill(os.getpid(), signal.SIGINT)
        if not let_go.wait(20):
            gave_up.set()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it
    try:
        with pytest.raises(KeyboardInterrupt):
            http.ask(served(interrupts), "GET", "/v1/models", seconds=60.0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not gave_up.is_set()
    let_go.set()
