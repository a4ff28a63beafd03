"""What the first bytes of a file are when they are not a model's: a Git-LFS pointer, a web page, an error as JSON.

Covers: telling them apart, and what to do about each. Does not cover: where the bytes come from (`labkit.hub.glances` for what a hub
sends, `bare_folders` for what lies in a folder). Standard library only.
Source of pointers: https://git-lfs.com, "Specification".
"""

from __future__ import annotations

import gzip
import html
import json
import re
import zlib
from dataclasses import dataclass

HEAD_BYTES = 4096
"""How much of a file tells what it is."""
POINTER, PAGE, MESSAGE = "pointer", "page", "message"
LOGIN = r"(?i)log ?in|sign ?in|password|登录|登陆|captive|portal|认证|hotspot|上网"
BLOCKED = r"(?i)just a moment|captcha|challenge|access denied|forbidden|cloudflare|防火墙|waf\b|blocked"


@dataclass(frozen=True)
class Content:
    """What was found instead of a model's file: `kind` is "pointer", "page" or "message"; `words` is its title or what it says."""

    kind: str
    words: str = ""

    @property
    def title(self) -> str:
        """What it is, to be read after "is"."""
        quoted = f' ("{self.words}")' if self.words else ""
        return {
            POINTER: f"a Git-LFS pointer{quoted}, the small text that git keeps in place of a large file, not the file",
            PAGE: f"a web page{quoted}, not the file",
            MESSAGE: f"an error message as JSON{quoted}, not the file",
        }[self.kind]

    @property
    def fix(self) -> str:
        """What to do when a hub sent it."""
        if self.kind == POINTER:
            return (
                "This hub or mirror keeps pointers without the files behind them: take another source. "
                "In a git clone, `git lfs install && git lfs pull` fetches the files."
            )
        if self.kind == MESSAGE:
            return "The message says what the hub wants. If it is a login: accept the model's terms in the browser, export the token."
        if re.search(LOGIN, self.words):
            return (
                "Somebody on the way asks for a login: of this network (open any web page in a browser here and log in), of a proxy, "
                "or of the hub (accept the model's terms, export the token). Then run it again, or take another source."
            )
        return (
            "A proxy, a mirror or the network's login page answers in place of the hub: log in to the network, switch the proxy "
            "off or on (proxy=False, proxy=True), or take another source."
        )


def recognise(head: bytes) -> Content | None:
    """What `head`, the first bytes of a file, is when it is none of a model's own formats; None for anything else."""
    text = _unpacked(head)[:HEAD_BYTES].decode("utf-8", "replace").lstrip("\ufeff \r\n\t")
    if text.startswith("version https://git-lfs.github.com/spec/") or text.startswith("version https://hawser.github.com/spec/"):
        size = re.search(r"^size (\d+)", text, re.MULTILINE)
        return Content(POINTER, f"for a file of {int(size[1]):,} bytes" if size else "")
    if re.match(r"(?i)(<!--.*?-->\s*)*(<\?xml[^>]*>\s*)?<(!doctype html|html|head|body|script|meta|title)\b", text, re.DOTALL):
        return Content(PAGE, _page_words(text))
    if re.match(r"(?i)<\?xml|<Error>", text) and "<Code>" in text:
        code = re.search(r"<Code>([^<]*)</Code>(?:\s*<Message>([^<]*)</Message>)?", text)
        return Content(MESSAGE, ": ".join(part for part in code.groups() if part)[:200] if code else "")
    return _message(text)


def _unpacked(head: bytes) -> bytes:
    """`head` without the gzip that some servers put around a file."""
    if head[:2] != b"\x1f\x8b":
        return head
    try:
        return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(head, HEAD_BYTES)
    except (zlib.error, gzip.BadGzipFile):
        return head


def _page_words(text: str) -> str:
    found = re.search(r"(?is)<title[^>]*>(.*?)(</title>|$)", text) or re.search(r"(?is)<h1[^>]*>(.*?)</h1>", text)
    words = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", found[1]))).strip()[:120] if found else ""
    if not words and re.search(r"(?i)type=[\"']?password", text):
        return "with a field for a password"
    return words


def _message(text: str) -> Content | None:
    """An object of a few words such as {"error": ...} or {"Code": 404, "Message": ...}; a model's own JSON files have none of these."""
    if not text.startswith("{"):
        return None
    try:
        content = json.loads(text)
    except ValueError:
        return None
    low = {str(key).lower(): value for key, value in content.items()}
    error = low.get("error")
    low |= {"error": error.get("message")} if isinstance(error, dict) else {}
    says = next((low[key] for key in ("error", "message", "msg", "detail", "errmsg") if isinstance(low.get(key), str) and low[key]), None)
    if says is None or len(content) > 8 or "model_type" in low or "architectures" in low:
        return None
    return Content(MESSAGE, says[:200])
