"""The middleware that asks for the key on every route, spoken to as a server speaks to it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest

from labkit.engines.inside.require_key import KEY_VARIABLE, RequireKey
from labkit.engines.vllm import ENGINE, INSIDE

KEY = "sk-" + "k" * 43


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "let in"})


def answer(scope: dict[str, Any]) -> list[dict[str, Any]]:
    """What a client with `scope` gets; "let in" stands for the engine behind."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("a request without a key is not read")

    asyncio.run(RequireKey(app)(scope, receive, send))
    return sent


def request(path: str = "/invocations", *headers: tuple[str, str], method: str = "POST", client: Any = ("127.0.0.1", 5)) -> dict[str, Any]:
    named = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return {"type": "http", "method": method, "path": path, "headers": named, "client": client}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)


def let_in(scope: dict[str, Any]) -> bool:
    return answer(scope) == [{"type": "let in"}]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "TRACE", "ODD"])
@pytest.mark.parametrize(
    "path",
    ["/", "/invocations", "/tokenize", "/v1/models", "/docs", "/health/", "/Health", "//health", "/health/../v1", "/metrics/x", "/healthz"],
)
def test_without_the_key_nothing_answers(path: str, method: str) -> None:
    start, body = answer(request(path, method=method))
    assert start["status"] == 401 and json.loads(body["body"]) == {"error": "Unauthorized"}


@pytest.mark.parametrize(
    "header",
    [
        ("authorization", "Bearer sk-wrong"),
        ("authorization", f"Basic {KEY}"),
        ("authorization", KEY),
        ("authorization", f"Bearer {KEY} "),
        ("authorization", f"Bearer  {KEY}"),
        ("authorization", "Bearer "),
        ("authorization", "Bearer sk-\xff\xfe"),
        ("x-api-key", KEY),
        ("cookie", f"authorization=Bearer {KEY}"),
    ],
)
def test_a_wrong_key_opens_nothing(header: tuple[str, str]) -> None:
    assert not let_in(request("/v1/models", header))


def test_the_key_opens_and_two_headers_do_not() -> None:
    good, bad = ("Authorization", f"bearer {KEY}"), ("authorization", "Bearer sk-wrong")
    assert let_in(request("/invocations", good)) and not let_in(request("/invocations", bad, good))


def test_open_are_life_the_numbers_for_this_machine_and_a_browser_s_question() -> None:
    for here in (("127.0.0.1", 1), ("::1", 1), ("::ffff:127.0.0.1", 1)):
        assert let_in(request("/metrics", method="GET", client=here))
    for away in (("10.0.0.7", 1), ("::ffff:10.0.0.7", 1), None, ("", 0)):
        assert not let_in(request("/metrics", method="GET", client=away)) and let_in(request("/health", method="GET", client=away))
    assert let_in(request("/v1/chat/completions", method="OPTIONS"))


def test_a_websocket_is_closed_and_a_start_of_the_server_is_not_hindered() -> None:
    assert answer({"type": "websocket", "path": "/health", "headers": [], "client": ("127.0.0.1", 1)})[0]["code"] == 1008
    assert let_in({"type": "lifespan"})


def test_without_a_key_the_server_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "")
    with pytest.raises(RuntimeError, match=KEY_VARIABLE):
        RequireKey(app)


def test_the_engine_finds_it_and_needs_nothing_of_labkit() -> None:
    module, _, name = ENGINE.middleware.rpartition(".")
    code = f"import sys, {module}; assert {module}.{name}; assert not [m for m in sys.modules if m.startswith('labkit')]"
    assert ENGINE.key_variable == KEY_VARIABLE and ENGINE.environment["PYTHONPATH"] == str(INSIDE)
    subprocess.run([sys.executable, "-P", "-c", code], env={"PYTHONPATH": str(INSIDE)}, check=True, cwd="/")
