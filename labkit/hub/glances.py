"""A look at what a hub sends for a file, a few kilobytes of it: whether a pointer, a web page or an error message comes in its place.

A client that expects 4 GB and gets a login page says "wrong size"; this says what came. Does not cover: what the bytes are
(`models.contents`), whole files. Standard library only.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from dataclasses import replace
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from ..models.contents import HEAD_BYTES, Content, recognise
from .evidence import Evidence, from_error
from .questions import proxies

SECONDS = 15.0


def look(address: str, *, proxy: bool) -> Content | Evidence | None:
    """What comes from `address` when it is none of a model's own formats, or what keeps it from coming."""
    way = _Way()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies() if proxy else {}), way)
    asked = urllib.request.Request(address, headers={"User-Agent": "labkit", "Range": f"bytes=0-{HEAD_BYTES - 1}"})
    try:
        with opener.open(asked, timeout=SECONDS) as answer:
            return recognise(answer.read(HEAD_BYTES))
    except (OSError, ValueError, HTTPException) as error:
        found = from_error(error)
        return replace(found, links=tuple(replace(link, host=urlsplit(way.last or address).netloc) for link in found.links))


class _Way(urllib.request.HTTPRedirectHandler):
    """Follows redirects and remembers the last, which urllib's errors do not name."""

    last = ""

    def redirect_request(self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        self.last = newurl
        return super().redirect_request(req, fp, code, msg, headers, newurl)
