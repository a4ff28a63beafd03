"""The `Link` header of a list in pages: where the next page is, at the hub that was asked.

A mirror hands on the header of the official site, with the official site's address in it; whoever follows it leaves the mirror,
and where a mirror is needed, arrives nowhere. (RFC 8288; huggingface_hub 2.4.0 `utils._pagination`.) Standard library only.
"""

from __future__ import annotations

import re
from urllib.parse import urljoin, urlsplit, urlunsplit


def next_page(header: str, asked: str, endpoint: str) -> str:
    """The address of the next page, at `endpoint`, "" if there is none; `asked` is the address that gave `header`."""
    for address, parameters in re.findall(r"<([^>]*)>((?:\s*;[^,<]*)*)", header):
        if re.search(r"""(?i);\s*rel\s*=\s*["']?[^"';]*\bnext\b""", parameters):
            return _moved(urljoin(asked, address), endpoint)
    return ""


def at_endpoint(header: str, endpoint: str) -> str:
    """`header` with every address led to `endpoint`."""
    return re.sub(r"<([^>]*)>", lambda found: f"<{_moved(found[1], endpoint)}>", header)


def _moved(address: str, endpoint: str) -> str:
    """`address` at the host of `endpoint`, below its path; relative ones stay as they are."""
    parts, home = urlsplit(address), urlsplit(endpoint)
    if not parts.netloc or (parts.scheme, parts.netloc) == (home.scheme, home.netloc):
        return address
    stem = home.path.rstrip("/")
    path = parts.path if not stem or parts.path.startswith(stem + "/") else stem + parts.path
    return urlunsplit((home.scheme, home.netloc, path, parts.query, ""))
