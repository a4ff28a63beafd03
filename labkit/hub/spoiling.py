"""Whole answers of the loopback hub that are others than the right one: busy, closed, absent, a web page, a redirect.

The bodies are short forms of what hubs, mirrors and login pages send. Does not cover: faults inside files (`server`) and lists (`routes`).
"""

from __future__ import annotations

import json
from email.utils import formatdate
from time import time

from .faults import WHOLE, Fault
from .server import Handler, Request

LOGIN_PAGE = b"""<!DOCTYPE html><html><head><meta charset="utf-8"><title>Campus network login</title></head>
<body><form method="post"><input name="user"><input type="password" name="password"></form></body></html>"""
PAGE = b"<!DOCTYPE html>\n<html><head><title>Welcome to the mirror</title></head><body><h1>Welcome</h1></body></html>"
WALL = b"<html><head><title>Attention Required! | Cloudflare</title></head><body>Sorry, you have been blocked</body></html>"
GATEWAY = b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><center>nginx</center></body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 4976698592\n"
HTML, JSON = {"Content-Type": "text/html; charset=utf-8"}, {"Content-Type": "application/json"}


def spoil(handler: Handler, request: Request) -> bool:
    """Send something else for `request` if a fault says so; False if the right answer is to be given."""
    fault = handler.server.faults.take(request.subject, *WHOLE)
    if fault is None:
        return False
    status, headers, body = _answer(fault, handler, request)
    handler.send_body(body, status, headers)
    return True


def _answer(fault: Fault, handler: Handler, request: Request) -> tuple[int, dict[str, str], bytes]:
    name = request.repository.name
    asked = {"Retry-After": str(fault.after)} if fault.after else {}
    plain: dict[str, tuple[int, dict[str, str], bytes]] = {
        "busy": (429, {**asked, **JSON}, _json(error="Too many requests")),
        "busy until": (429, {"Retry-After": formatdate(time() + fault.after, usegmt=True)}, b""),
        "down": (503, asked, b""),
        "broken": (500, JSON, _json(error="Internal Error")),
        "bad gateway": (502, HTML, GATEWAY),
        "page": (200, HTML, PAGE),
        "login page": (200, HTML, LOGIN_PAGE),
        "pointer": (200, {"Content-Type": "text/plain"}, POINTER),
        "message": (200, JSON, _json(error="Please log in first")),
        "login": (401, {"WWW-Authenticate": "Bearer", **JSON}, _json(error="Invalid username or password.")),
        "gated": (
            403,
            {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to model {name} is restricted.", **JSON},
            _json(error=f"Access to model {name} is restricted and you are not in the authorized list."),
        ),
        "forbidden": (403, HTML, WALL),
        "no revision": (
            404,
            {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id: main"},
            _json(error="Invalid rev id"),
        ),
        "no model": (404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, _json(error="Repository not found")),
        "legal": (451, JSON, _json(error="Unavailable for legal reasons")),
        "circle": (302, {"Location": handler.path}, b""),
        "sent on": (302, {"Location": f"http://{fault.to}{handler.path}"}, b""),
        "moved": (307, {"Location": handler.path.replace(name, fault.to)}, b""),
    }
    return plain[fault.kind]


def _json(**content: str) -> bytes:
    return json.dumps(content).encode()
