"""Who answers without the key: every route and method that a server itself lists, asked as a stranger would."""

from __future__ import annotations

from itertools import product

import httpx

from labkit.serving.server import Server

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")
UNLISTED = ("/", "/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect", "/metrics", "/metrics/", "/health", "/v1/realtime", "/nosuch")
"""What a web framework serves beside its list."""


def open_without_key(server: Server) -> set[tuple[str, str]]:
    """(method, path) of what does not answer 401 or 403 without the server's key, with a wrong one or with none behind the word."""
    with httpx.Client(base_url=server.url, trust_env=False, timeout=20) as client:
        listed = client.get("/openapi.json", headers={"Authorization": f"Bearer {server.key}"})
        paths = {*listed.json()["paths"], *UNLISTED} if listed.status_code == 200 else set(UNLISTED)
        assert len(paths) > len(UNLISTED), f"the server lists no routes: {listed.status_code}"
        strangers = ({}, {"Authorization": "Bearer sk-wrong"}, {"Authorization": "Bearer"})
        found = set()
        for path, method, headers in product(sorted(paths), METHODS, strangers):
            place = path.replace("{", "").replace("}", "")
            if client.request(method, place, headers=headers, json={} if method in ("POST", "PUT", "PATCH") else None).status_code not in (
                401,
                403,
            ):
                found.add((method, path))
        return found
