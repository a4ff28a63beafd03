"""Stands between a client and the network, in the client's process: waits for a busy hub, stays at the mirror, remembers what failed.

Covers: requests (ModelScope) and httpx (Hugging Face), by the one public method of each that sends a request, so that no client's own
waiting, which is silent and without limit, comes into play. Does not cover: git (`git_client`). Used by `client`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any, NoReturn
from urllib.parse import urlsplit

from labkit.hub.evidence import TOLD_HEADERS, Evidence, Link, file_in, from_error
from labkit.hub.links import at_endpoint
from labkit.hub.patience import BUSY, Patience, asked_pause
from labkit.workers import side


class Witness:
    """What one client's process saw of the network. `endpoint` is where the hub is to be asked."""

    def __init__(self, endpoint: str, patience: Patience) -> None:
        self.endpoint, self.patience = endpoint, patience
        self.failed: Evidence | None = None

    def attend(self, send: Callable[[], Any], ask_again: Callable[[Any], None]) -> Any:
        """What `send` answers, asked again while the hub is busy; ends this process where that takes too long."""
        tried = 0
        while True:
            try:
                answer = send()
            except Exception as error:
                self.failed = from_error(error)
                raise
            if answer.status_code not in BUSY:
                if answer.status_code >= 400:
                    self.failed = Evidence((_link(answer),))
                if answer.status_code >= 500:
                    give_up(_link(answer))  # ModelScope's client asks again for half a minute
                return answer
            tried += 1
            link = _link(answer)
            ask_again(answer)
            if not self.patience.wait(link.host, link.status, link.headers, tried):
                give_up(link)


def give_up(link: Link) -> NoReturn:
    """End this process: the hub is busy for longer than anybody waits. What is on disk stays there."""
    side.tell("failure", **Evidence((link,), busy=asked_pause(link.headers) or 0.0).as_message())
    os._exit(1)


def watch_requests(witness: Witness) -> None:
    """Let every request of the library requests go by `witness`."""
    from requests.adapters import HTTPAdapter

    send = HTTPAdapter.send

    def attended(self: Any, request: Any, *arguments: Any, **keywords: Any) -> Any:
        self.max_retries = self.max_retries.new(status_forcelist=(), respect_retry_after_header=False)
        return witness.attend(lambda: send(self, request, *arguments, **keywords), lambda answer: answer.close())

    HTTPAdapter.send = attended  # type: ignore[method-assign]


def watch_httpx(witness: Witness, library: str) -> None:
    """Let every request of `library`, httpx under one of its names, go by `witness`."""
    transport = importlib.import_module(library).HTTPTransport
    send = transport.handle_request

    def attended(self: Any, request: Any) -> Any:
        answer = witness.attend(lambda: _with_request(send(self, request), request), lambda answer: answer.close())
        if link := answer.headers.get("link"):
            answer.headers["link"] = at_endpoint(link, witness.endpoint)
        return answer

    transport.handle_request = attended


def _with_request(answer: Any, request: Any) -> Any:
    answer.request = request
    return answer


def _link(answer: Any) -> Link:
    headers: Mapping[str, str] = answer.headers
    told = {name.lower(): str(value)[:300] for name, value in headers.items() if name.lower() in TOLD_HEADERS}
    host = urlsplit(str(answer.url)).netloc.rpartition("@")[2]
    words, file = f"HTTP {answer.status_code}", file_in(str(answer.url))
    return Link("Answer", words=words, status=answer.status_code, headers=told, host=host, file=file)
