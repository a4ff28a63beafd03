"""The key is asked for on every route of an engine that by itself asks on some only (vLLM: those below /v1). Runs inside the engine.

An ASGI middleware for `--middleware require_key.RequireKey`, with this folder on PYTHONPATH: standard library only, and nothing of labkit.
The key comes from the environment variable that the engine itself reads.

Open are OPTIONS (what a browser asks before a request; it answers nothing of the model's), /health, and /metrics for this machine.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from hashlib import sha256
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

KEY_VARIABLE = "VLLM_API_KEY"
OPEN, OPEN_HERE = "/health", "/metrics"
"""The path that says whether it lives, and the one with numbers alone; no other spelling of either is open."""


class RequireKey:
    """Answers 401 to a request without `Authorization: Bearer KEY`; compares digests in constant time."""

    def __init__(self, app: App) -> None:
        self.app, key = app, os.environ.get(KEY_VARIABLE, "")
        if not key:
            raise RuntimeError(f"{KEY_VARIABLE} is empty: this server would ask nobody for a key")
        self.digest = sha256(key.encode()).digest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._is_open(scope) or self._has_key(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "Unauthorized"})
        else:
            body = json.dumps({"error": "Unauthorized"}).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"www-authenticate", b"Bearer"),
            ]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    def _is_open(self, scope: Scope) -> bool:
        if scope["type"] != "http":
            return False
        if scope["method"] == "OPTIONS" or scope["path"] == OPEN:
            return True
        return scope["path"] in (OPEN_HERE, f"{OPEN_HERE}/") and _is_loopback(scope.get("client"))

    def _has_key(self, scope: Scope) -> bool:
        named = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        scheme, _, key = named[0].partition(b" ") if len(named) == 1 else (b"", b"", b"")
        return scheme.lower() == b"bearer" and hmac.compare_digest(sha256(key).digest(), self.digest)


def _is_loopback(client: Any) -> bool:
    """Whether a request comes from this machine; a tunnel's end is here too."""
    try:
        address = ipaddress.ip_address(client[0])
    except (TypeError, ValueError, IndexError):
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
