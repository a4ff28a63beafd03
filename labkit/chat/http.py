"""The one way to call a server of this machine: with its key, without the proxy that the environment may name, with an end.

`network_turbo` on AutoDL sets http_proxy for everything; a proxy cannot reach a loopback port of this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..common.errors import NotRunning

if TYPE_CHECKING:
    import httpx

    from ..engines.endpoint import Endpoint

LOAD_SECONDS = 120.0
"""An engine that loads an adapter answers when it is loaded."""
HEALTH_SECONDS = 5.0


def ask(
    server: Endpoint, method: str, path: str, body: Mapping[str, Any] | None = None, *, seconds: float = LOAD_SECONDS
) -> tuple[int, Any]:
    """Status and JSON (or text) of a request with the server's key. Raises `NotRunning` for a server that does not answer."""
    import httpx

    headers = {"Authorization": f"Bearer {server.key}"}
    try:
        with httpx.Client(trust_env=False, timeout=seconds) as client:
            answer = client.request(method, server.url + path, headers=headers, json=body)
    except httpx.TransportError as error:
        fix = f"./lab ps shows what runs; ./lab logs {server.name} says why."
        raise NotRunning(f"{server.url} does not answer: {str(error) or type(error).__name__}.", fix) from error
    return answer.status_code, _content(answer)


def healthy(server: Endpoint) -> bool:
    """Whether the engine's health path says 200 now; `HEALTH_SECONDS` at most. Sends no key: the path asks for none."""
    import httpx

    try:
        with httpx.Client(trust_env=False, timeout=HEALTH_SECONDS) as client:
            return client.get(server.url + server.engine.health).status_code == 200
    except httpx.TransportError:
        return False


def error_message(content: Any) -> str:
    """What went wrong, in the engine's words: vLLM's error.message, SGLang's error_message, FastAPI's detail."""
    if not isinstance(content, dict):
        return str(content)
    error = content.get("error")
    inner = error.get("message") if isinstance(error, dict) else error
    return str(inner or content.get("error_message") or content.get("detail") or content)


def _content(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return answer.text
