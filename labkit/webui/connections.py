"""A connection of Open-WebUI to an engine, and what is wrong with one that does not work.

Covers: the row, whether two are the same place, the cause behind a refusal. Does not cover: asking (`api`), which there should be (`page`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from ..machine import ports

PROBE_SECONDS = 3.0


@dataclass(frozen=True)
class Connection:
    """One connection of Open-WebUI to an engine. `url` ends in /v1; `prefix` goes before the model names in the menu."""

    url: str
    key: str = field(default="", repr=False)
    prefix: str = ""
    enabled: bool = True


@dataclass(frozen=True)
class ConnectionCheck:
    """Whether Open-WebUI can use a connection. `models` are the engine's names; `cause` and `fix` are "" when it can."""

    url: str
    models: tuple[str, ...] = ()
    cause: str = ""
    fix: str = ""

    @property
    def ok(self) -> bool:
        return not self.cause

    def __str__(self) -> str:
        return f"{self.url}: works, models: {', '.join(self.models) or 'none'}" if self.ok else f"{self.url}: {self.cause}\nFix: {self.fix}"

    __repr__ = __str__


def clean(url: str) -> str:
    """`url` as Open-WebUI needs it: without blanks and trailing slashes, which it would keep and then ask for //models."""
    return url.strip().rstrip("/")


def same_place(one: Connection, other: Connection) -> bool:
    """Whether two connections lead to the same server: 127.0.0.1 and localhost are one, a trailing slash is nothing."""
    return _place(one.url) == _place(other.url)


def _place(url: str) -> tuple[str, int | None, str]:
    parts = urlsplit(clean(url))
    host = (parts.hostname or "").replace("localhost", "127.0.0.1")
    try:
        return host, parts.port, parts.path
    except ValueError:
        return host, None, parts.path


def why(url: str, status: int, detail: str) -> tuple[str, str]:
    """Cause and fix for an answer of /openai/verify. The codes are the same for vLLM and a stand-in (measured)."""
    place = urlsplit(url.strip())
    if place.scheme not in ("http", "https") or not place.hostname:
        return f"{url!r} is no address.", "It looks like http://127.0.0.1:8000/v1"
    if status == 401:
        return "The server answers, but the key is wrong.", "Use the engine's key; ./lab up names its file (state/keys in the data home)."
    if status == 404 and url.endswith("/"):
        return "The base URL ends with a slash, so Open-WebUI asks for //models.", f"Write {clean(url)}"
    if status == 404:
        return "The server answers, but not at this path: the base URL must end in /v1.", f"Write {place.scheme}://{place.netloc}/v1"
    if spoken := _other_scheme(place):
        return (
            f"The server at {place.netloc} speaks {spoken}, and the address says {place.scheme}.",
            f"Write {clean(url).replace(place.scheme, spoken, 1)}",
        )
    here = place.hostname in ("127.0.0.1", "localhost", "::1")
    number = _place(url)[1] or (443 if place.scheme == "https" else 80)
    if here and ports.listener(number) is None:
        return (
            f"Nothing listens on port {number} of this machine: the engine is down.",
            "./lab ps; ./lab up vllm starts one. The address is seen from the machine where Open-WebUI runs, not from your browser.",
        )
    if here:
        return (
            f"Port {number} is taken by {ports.listener(number)}, which does not answer as an engine does (HTTP {status}: {detail[:120]}).",
            "If it is an engine, it may still be starting: ./lab ps. Else use the engine's port.",
        )
    return f"{place.netloc} cannot be reached from this machine.", "For an engine on this machine write 127.0.0.1."


def _other_scheme(place: SplitResult) -> str:
    """ "http" or "https" where the server speaks that and the address says the other; "" where it does not, or nobody answers.

    Engines speak plain HTTP. A server behind TLS answers a plain request with 400 and a sentence that names HTTPS, or hangs up.
    """
    import httpx

    try:
        plain = httpx.get(f"http://{place.netloc}/", trust_env=False, timeout=PROBE_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL):
        return ""
    secure = plain.status_code == 400 and "https" in plain.text.lower()
    spoken = "https" if secure else "http"
    return "" if spoken == place.scheme else spoken
