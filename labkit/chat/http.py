"""The one way to call a server of this machine: with its key, without the proxy that the environment may name, with an end.

`network_turbo` on AutoDL sets http_proxy for everything; a proxy cannot reach a loopback port of this machine. A limit holds over the
whole of a call, connection, headers and body together: a server that hangs, or sends a byte now and then, is told as one that hangs.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..common.amounts import amount_text
from ..common.errors import NotRunning

if TYPE_CHECKING:
    from ..engines.endpoint import Endpoint

LOAD_SECONDS = 120.0
"""An engine that loads an adapter answers when it is loaded."""
HEALTH_SECONDS = 5.0
MOST_BYTES = 256 * 2**20
"""An answer that is longer has no end."""


def ask(
    server: Endpoint, method: str, path: str, body: Mapping[str, Any] | None = None, *, seconds: float = LOAD_SECONDS
) -> tuple[int, Any]:
    """Status and JSON (or text) of a request with the server's key, within `seconds` in all.

    Raises `NotRunning` for a server that does not answer, does not come to an end, or does not speak HTTP.
    """
    import httpx

    headers = {"Authorization": f"Bearer {server.key}"}
    try:
        status, content = _within(seconds, method, server.url + path, headers, body)
    except (httpx.HTTPError, TimeoutError, EOFError) as error:
        said = str(error) or type(error).__name__
        if isinstance(error, httpx.ConnectError):
            said = "nobody listens there"
        elif isinstance(error, TimeoutError):
            said = f"it hung, no whole answer to {path} in {seconds:.0f} s"
        fix = f"./lab ps shows what runs; ./lab logs {server.name} says why."
        raise NotRunning(f"{server.url} does not answer: {said.rstrip('.')}.", fix) from error
    return status, _content(content)


def healthy(server: Endpoint) -> bool:
    """Whether the engine's health path says 200 now; `HEALTH_SECONDS` at most. Sends no key: the path asks for none."""
    import httpx

    try:
        return _within(HEALTH_SECONDS, "GET", server.url + server.engine.health, {}, None)[0] == 200
    except (httpx.HTTPError, TimeoutError, EOFError):
        return False


def error_message(content: Any) -> str:
    """What went wrong, in the engine's words: vLLM's error.message, SGLang's error_message, FastAPI's detail."""
    if not isinstance(content, dict):
        return str(content)
    error = content.get("error")
    inner = error.get("message") if isinstance(error, dict) else error
    return str(inner or content.get("error_message") or content.get("detail") or content)


def _within(seconds: float, method: str, url: str, headers: Mapping[str, str], body: Mapping[str, Any] | None) -> tuple[int, bytes]:
    """Status and body of one exchange. In a thread of its own, because a notebook's runs an event loop already; httpx's own limits count
    for each read. An interrupt ends it at once. Raises TimeoutError, EOFError for an answer without end, and httpx's errors."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(_limited(seconds, method, url, headers, body))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(_drive, loop, task)
        try:
            return answer.result()
        except KeyboardInterrupt:  # the pool waits for its thread, and that for the server
            with suppress(RuntimeError):  # it has just come to its end
                loop.call_soon_threadsafe(task.cancel)
            raise


def _drive(loop: asyncio.AbstractEventLoop, task: asyncio.Task[tuple[int, bytes]]) -> tuple[int, bytes]:
    try:
        return loop.run_until_complete(task)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _limited(seconds: float, method: str, url: str, headers: Mapping[str, str], body: Mapping[str, Any] | None) -> tuple[int, bytes]:
    return await asyncio.wait_for(_exchange(method, url, headers, body), seconds)


async def _exchange(method: str, url: str, headers: Mapping[str, str], body: Mapping[str, Any] | None) -> tuple[int, bytes]:
    import httpx

    client = httpx.AsyncClient(trust_env=False, timeout=None, verify=url.startswith("https:"))  # certificates take 20 ms to read
    async with client, client.stream(method, url, headers=dict(headers), json=body) as answer:
        content = bytearray()
        async for piece in answer.aiter_bytes():
            content += piece
            if len(content) > MOST_BYTES:
                raise EOFError(f"its answer has no end (over {amount_text(MOST_BYTES, 'B')})")
        return answer.status_code, bytes(content)


def _content(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content.decode(errors="replace")
