"""A look at what a hub sends for a file, a few kilobytes of it: whether a pointer, a web page or an error message comes in its place.

A client that expects 4 GB and gets a login page says "wrong size"; this says what came. Does not cover: what the bytes are
(`models.contents`), whole files. Standard library only.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from http.client import HTTPException

from ..models.contents import HEAD_BYTES, Content, recognise
from .evidence import Evidence, from_error
from .questions import proxies

SECONDS = 15.0


def look(address: str, *, proxy: bool) -> Content | Evidence | None:
    """What comes from `address` when it is none of a model's own formats, or what keeps it from coming."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies() if proxy else {}))
    asked = urllib.request.Request(address, headers={"User-Agent": "labkit", "Range": f"bytes=0-{HEAD_BYTES - 1}"})
    try:
        with opener.open(asked, timeout=SECONDS) as answer:
            return recognise(answer.read(HEAD_BYTES))
    except (OSError, ValueError, HTTPException) as error:
        return from_error(error)
