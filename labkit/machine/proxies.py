"""The proxy variables: who of this machine must not be asked through one.

http_proxy alone sends a program's requests to its own machine to the proxy too. SGLang asks itself for a first answer that way, gets
502 from the proxy and ends (sglang#9155); Open-WebUI asks engines. Standard library only.
Covers: NO_PROXY for what labkit starts. Does not cover: setting a proxy, requests of this process (`chat.http` takes none).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
EXEMPT = ("no_proxy", "NO_PROXY")
"""Programs read one or the other, and where both are there not the same one first."""


def exempt(hosts: Iterable[str] = (), environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Both spellings of NO_PROXY: what either names already, then this machine and `hosts`."""
    env = os.environ if environment is None else environment
    named = [entry.strip() for name in EXEMPT for entry in env.get(name, "").split(",") if entry.strip()]
    return dict.fromkeys(EXEMPT, ",".join(dict.fromkeys([*named, *LOOPBACK, *hosts])))


def proxied(environment: Mapping[str, str]) -> list[str]:
    """The proxy variables that are set, where this machine itself is not exempt: what another program's requests to it go through."""
    named = {entry.strip() for name in EXEMPT for entry in environment.get(name, "").split(",")}
    if "*" in named or {"127.0.0.1", "localhost"} <= named:
        return []
    return [name for name in PROXIES if environment.get(name)]
