"""Questions to a hub that it answers with JSON: asked again while it is busy or the line breaks, and given up at a deadline.

Covers: time-outs over the whole answer, redirects, proxies, web pages in place of JSON; every failure as a `DownloadError`.
Does not cover: what is asked (`listings`). Standard library only.
"""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from http.client import BadStatusLine, HTTPException
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ..common.errors import DownloadError, SettingError
from ..models.contents import HEAD_BYTES, MESSAGE, recognise
from .evidence import Evidence, from_error
from .failed_connections import SWITCH
from .failures import classify
from .patience import BUSY, Patience, asked_pause
from .verdicts import Asked

READ_SECONDS = 20.0
"""How long a hub may be silent before it is asked again."""
DEADLINE_SECONDS = 60.0
"""How long a whole list may take, all its pages and tries together; waiting for a busy hub, which is said, comes on top."""
TRIES = 3
BLOCK = 64 * 1024
Result = TypeVar("Result")


class NoJson(ValueError):
    """An answer that is no JSON; `head` is how it begins."""

    def __init__(self, head: bytes) -> None:
        super().__init__(f"no JSON, it begins with {head[:60]!r}")
        self.head = head


class Questions:
    """What one caller asks of one hub, before one deadline. `headers` go to the endpoint's own host only."""

    def __init__(self, asked: Asked, proxy: bool, patience: Patience, headers: Mapping[str, str] | None = None) -> None:
        self.asked, self.patience, self.headers = asked, patience, headers or {}
        self._deadline = time.monotonic() + DEADLINE_SECONDS
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies() if proxy else {}), _Redirects())

    def ask(self, address: str) -> tuple[Any, str]:
        """The JSON at `address` and the answer's `Link` header. Raises `DownloadError` and `SettingError`."""
        try:
            return self._asked(address)
        except NoJson as error:
            raise self._no_json(error.head) from error
        except urllib.error.HTTPError as error:
            raise self._refused(error) from error
        except (OSError, ValueError, HTTPException) as error:
            raise self._unreachable(error) from error

    def ask_if_there(self, address: str) -> Any:
        """The same for an address that a mirror need not have: None where it refuses or answers something else."""
        try:
            return self._asked(address)[0]
        except (urllib.error.HTTPError, NoJson):
            return None
        except (OSError, ValueError, HTTPException) as error:
            raise self._unreachable(error) from error

    def not_a_list(self, content: Any) -> DownloadError:
        """The error for JSON that is no list of files."""
        words = recognise(json.dumps(content)[:HEAD_BYTES].encode()) if isinstance(content, dict) else None
        says = f' It says: "{words.words}".' if words and words.kind == MESSAGE else ""
        cause = f"{self.asked.host} answered something else than a list of files for {self.asked.model}.{says}"
        return DownloadError(cause, f"Is it a hub of this kind? See HF_ENDPOINT and MODELSCOPE_ENDPOINT. {self.asked.other_way}")

    def _asked(self, address: str) -> tuple[Any, str]:
        request = urllib.request.Request(address, headers={"User-Agent": "labkit", "Accept-Encoding": "gzip", **self.headers})
        broken = busy = 0
        while True:
            try:
                return self._until(lambda: self._read(request))
            except urllib.error.HTTPError as error:
                if error.code not in BUSY:
                    raise
                busy += 1
                before = self.patience.spent
                if not self.patience.wait(urlsplit(address).netloc, error.code, dict(error.headers), busy):
                    raise
                self._deadline += self.patience.spent - before
            except NoJson:
                raise
            except (OSError, ValueError, HTTPException) as error:
                broken += 1
                if broken == TRIES or time.monotonic() >= self._deadline or not classify(from_error(error), self.asked).again:
                    raise
                time.sleep(max(0.0, min(1.0, self._deadline - time.monotonic())))

    def _read(self, request: urllib.request.Request) -> tuple[Any, str]:
        body = bytearray()
        with self._opener.open(request, timeout=READ_SECONDS) as answer:
            while block := answer.read1(BLOCK):
                body += block
                if time.monotonic() > self._deadline:
                    raise _late()
            whole = _unpacked(bytes(body), answer.headers.get("Content-Encoding", ""))
            if (length := answer.headers.get("Content-Length")) and length.isdigit() and len(body) < int(length):
                raise HTTPException(f"the answer ended after {len(body)} of {length} bytes")
            try:
                return json.loads(whole), answer.headers.get("Link", "")
            except ValueError:
                raise NoJson(whole[:HEAD_BYTES]) from None

    def _until(self, work: Callable[[], Result]) -> Result:
        """What `work` returns or raises, or `TimeoutError` at the deadline.

        In a thread, because a socket's timeout holds for each read and the names of a hub are looked up without any: a hub that sends
        a byte now and then is never late. A thread that is left behind ends with its connection.
        """
        future: Future[Result] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)

        threading.Thread(target=run, daemon=True, name="labkit-listing").start()
        try:
            return future.result(max(0.0, self._deadline - time.monotonic()))
        except TimeoutError:
            if future.done():
                raise
            raise _late() from None

    def _no_json(self, head: bytes) -> DownloadError:
        found = recognise(head)
        if found is None:
            what = f"it begins with {head[:60]!r}" if head.strip() else "it is empty"
            cause = f"{self.asked.host} answered something that is no list of files: {what}."
            return DownloadError(cause, f"Is it a hub of this kind? See HF_ENDPOINT and MODELSCOPE_ENDPOINT. {self.asked.other_way}")
        cause = f"{self.asked.host} did not answer with a list of files for {self.asked.model}: what came is {found.title}."
        fix = found.fix.replace(", or take another source", "")
        return DownloadError(cause.replace(", not the file", ""), f"{fix} {self.asked.other_way}")

    def _refused(self, error: urllib.error.HTTPError) -> DownloadError | SettingError:
        body = b""
        with suppress(OSError, ValueError, HTTPException):
            body = error.read(HEAD_BYTES)
        error.body = body.decode("utf-8", "replace")  # type: ignore[attr-defined]
        found = from_error(error)
        if error.code in BUSY:
            found = Evidence(found.links, asked_pause(dict(error.headers)) or 0.0)
        failure = classify(found, self.asked)
        return replace(failure, fix=failure.fix.replace("What arrived is kept: run", "Run")).raised()  # nothing was asked for yet

    def _unreachable(self, error: Exception) -> DownloadError | SettingError:
        reason = getattr(error, "reason", error)
        failure = classify(from_error(error), self.asked)
        if failure.kind in ("tls", "dns", "proxy", "unreachable", "setting", "redirects"):
            return failure.raised(f"({reason})" if failure.kind != "setting" else "")
        what = "gave no list of files"
        if isinstance(error, BadStatusLine) and not isinstance(error, OSError):
            what, reason = "does not answer as a web server does", f"it says {str(error).strip()[:60]!r}"
        fix = f"Run the same cell again. {SWITCH if failure.kind == 'timeout' else ''} {self.asked.other_way}"
        cause = f"{self.asked.endpoint} {what}: {' '.join(str(reason).split())}."
        return replace(failure, cause=cause, fix=fix.replace("  ", " ")).raised()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and takes the token along only to the host that it is for."""

    def redirect_request(self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None and urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            new.remove_header("Authorization")
        return new


def proxies(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The proxies that `environment` names, by scheme, as the clients read them: the one for all stands in for one that is not set."""
    env = os.environ if environment is None else environment
    found = {}
    for scheme in SCHEMES:
        names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY")
        if address := next((env[name] for name in names if env.get(name)), ""):
            found[scheme] = address
    return found


SCHEMES = ("http", "https")


def _unpacked(body: bytes, encoding: str) -> bytes:
    if encoding.lower() not in ("gzip", "x-gzip", "deflate"):
        return body
    try:
        return zlib.decompressobj(32 + zlib.MAX_WBITS).decompress(body)
    except zlib.error as error:
        raise HTTPException(f"the answer cannot be unpacked: {error}") from error


def _late() -> TimeoutError:
    return TimeoutError(f"no whole list within {DEADLINE_SECONDS:.0f} s")
