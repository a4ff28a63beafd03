"""What a failed download left behind, as data: the chain of exceptions with error numbers, HTTP answers and hosts.

The client's process takes it where the exceptions are at hand (`from_error`) and sends it as JSON; `failures` says what it means.
Covers: exceptions of the standard library, requests and httpx, which both clients use, by their attributes. Does not cover: programs
that only print (`printed`). Standard library only.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

MOST_LINKS = 24
WORDS = 600
"""Characters kept of a message."""
TOLD_HEADERS = ("retry-after", "ratelimit", "location", "content-type", "x-error-code", "x-error-message", "www-authenticate", "server")


@dataclass(frozen=True)
class Link:
    """One exception: `type` and `module` name its class, `words` is its message; the rest is what it carries, if anything.

    `number` is errno, `status` and `headers` those of an HTTP answer, `host` whom it was asked of, `tls` OpenSSL's verification code,
    `file` the file of the model.
    """

    type: str
    module: str = ""
    words: str = ""
    number: int = 0
    path: str = ""
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    host: str = ""
    tls: int = 0
    file: str = ""

    @property
    def lookup(self) -> bool:
        """Whether a name could not be looked up; numbers of `getaddrinfo` are no errno."""
        return self.type in ("gaierror", "NameResolutionError")

    def __str__(self) -> str:
        first = next((line.strip() for line in self.words.splitlines() if line.strip()), "")
        return f"{self.type}: {first}" if first else self.type


@dataclass(frozen=True)
class Evidence:
    """The chain, the last exception first, what it came from after it. `busy` is how long a hub asked to be left alone, if it did."""

    links: tuple[Link, ...] = ()
    busy: float | None = None

    def as_message(self) -> dict[str, Any]:
        """The same as plain JSON."""
        return asdict(self)

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Evidence:
        """The evidence that `as_message` wrote; unknown fields are left out."""
        known = Link.__dataclass_fields__
        links = tuple(Link(**{name: value for name, value in row.items() if name in known}) for row in message.get("links", ()))
        return cls(links, message.get("busy"))

    @property
    def last(self) -> Link | None:
        """The exception that ended it."""
        return self.links[0] if self.links else None

    @property
    def files(self) -> tuple[str, ...]:
        """Files of the model that it names."""
        return tuple(dict.fromkeys(link.file for link in self.links if link.file))


def from_error(error: BaseException) -> Evidence:
    """The evidence in `error`, in what it came from, and in the errors that it carries for single files."""
    links = []
    for found, file in _chain(error, "", set()):
        links.append(_link(found, file))
        if len(links) == MOST_LINKS:
            break
    return Evidence(tuple(links))


def _chain(error: BaseException, file: str, seen: set[int]) -> Iterator[tuple[BaseException, str]]:
    if id(error) in seen:
        return
    seen.add(id(error))
    yield error, file
    failed = getattr(error, "failed_files", None)
    for path, inner in failed.items() if isinstance(failed, dict) else ():
        yield from _chain(inner, str(path), seen)
    carried = [getattr(error, "reason", None), *getattr(error, "exceptions", ()), *error.args]
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    for inner in (before, *carried):
        if isinstance(inner, BaseException):
            yield from _chain(inner, file, seen)


def _link(error: BaseException, file: str) -> Link:
    answer = _part(error, "response")
    if answer is None and isinstance(getattr(error, "code", None), int) and hasattr(error, "headers"):
        answer = error  # urllib's HTTPError is its own answer
    status = getattr(error, "status_code", None) or getattr(answer, "status_code", None) or getattr(answer, "code", None)
    headers = getattr(answer, "headers", None) or {}
    number = getattr(error, "errno", None)
    lookup = isinstance(error, socket.gaierror)
    return Link(
        type=type(error).__name__,
        module=type(error).__module__.partition(".")[0],
        words=without_secrets(_text(error))[:WORDS],
        number=number
        if isinstance(number, int) and not lookup and isinstance(error, OSError) and not isinstance(error, ssl.SSLError)
        else 0,
        path=_path(error),
        status=status if isinstance(status, int) else 0,
        headers={name.lower(): str(value)[:300] for name, value in dict(headers).items() if name.lower() in TOLD_HEADERS},
        body=without_secrets(_body(error, answer))[:WORDS],
        host=_host(error, answer),
        tls=getattr(error, "verify_code", 0) if isinstance(error, ssl.SSLCertVerificationError) else 0,
        file=file or _file(error, answer),
    )


def _path(error: BaseException) -> str:
    """The path that an `OSError` is about: of two, as for a rename, the one that something else lies at."""
    if not isinstance(error, OSError):
        return ""
    second = error.filename2 if error.errno in IN_THE_WAY else None
    return str(second or error.filename or "")


def _part(error: BaseException, name: str) -> Any:
    """An attribute, None where there is none; httpx raises for a request that was never set."""
    try:
        return getattr(error, name, None)
    except Exception:
        return None


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""


def _body(error: BaseException, answer: Any) -> str:
    """The start of the answer's body as far as it was read already."""
    given = _part(error, "response_body") or _part(error, "body")
    if isinstance(given, str | dict):
        return str(given)
    content = _part(answer, "content") if answer is not None and answer is not error else None
    return content[:WORDS].decode("utf-8", "replace") if isinstance(content, bytes) else ""


def _address(error: BaseException, answer: Any) -> str:
    request = _part(error, "request")
    return str(_part(error, "url") or getattr(answer, "url", None) or (_part(request, "url") if request is not None else None) or "")


def _host(error: BaseException, answer: Any) -> str:
    try:
        return urlsplit(_address(error, answer)).netloc.rpartition("@")[2]
    except ValueError:
        return ""


def _file(error: BaseException, answer: Any) -> str:
    return file_in(_address(error, answer))


def file_in(address: str) -> str:
    """The file of the model that `address` asks for, "" for none."""
    found = re.search(r"/resolve/[^/?]+/([^?]+)|[?&]FilePath=([^&]+)", address)
    return unquote(found[1] or found[2]) if found else ""


def without_secrets(text: str) -> str:
    """`text` without tokens, passwords in addresses, and signed parts of addresses."""
    text = re.sub(r"(?i)(://)[^/\s@'\"]+@", r"\1***@", text)
    text = re.sub(r"(?i)\b(bearer|token|authorization:?)\s+['\"]?[\w.~+/=-]{6,}", r"\1 ***", text)
    text = re.sub(r"\b(hf|ms)[_-][A-Za-z0-9-]{8,}", r"\1_***", text)
    return re.sub(r"(?i)([?&](?:x-amz-[\w-]+|signature|sig|token|key-pair-id|policy|ossaccesskeyid)=)[^&\s'\"]+", r"\1***", text)


IN_THE_WAY = (errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY)
DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your quota on this file system is used up",
    errno.EFBIG: "the file system or a limit of this user (ulimit -f) takes no file of this size",
    errno.EROFS: "the file system is mounted read-only",
    errno.EACCES: "this user may not write there",
    errno.EPERM: "the file system does not permit it",
    errno.EIO: "the disk failed to read or write",
    errno.ENAMETOOLONG: "the name is too long for this file system",
    errno.ENOTDIR: "a file is where a folder is needed",
    errno.EISDIR: "a folder is where the file belongs",
    errno.ENOTEMPTY: "a folder is where the file belongs",
    errno.EMFILE: "too many files are open",
    errno.ENFILE: "too many files are open",
    errno.ELOOP: "links lead in a circle",
    errno.ESTALE: "the network file system lost the file",
    errno.ENODEV: "the disk is gone",
    errno.ENXIO: "the disk is gone",
}
"""Error numbers of a disk, in words; the sentence names the path. A second try changes none of them."""
DISK_FIXES = {
    errno.EFBIG: "Take a folder on another file system (FAT32 ends at 4 GB): folder=..., LABKIT_HOME; `ulimit -f` shows a limit.",
    errno.EROFS: "Take a folder on a disk that can be written: folder=..., LABKIT_HOME. `mount` shows which are read-only (ro).",
    errno.EACCES: "Take a folder of yours (folder=..., LABKIT_HOME), or let its owner give it to you: ls -ld shows who that is.",
    errno.EPERM: "Take a folder of yours, on a file system of Linux: folder=..., LABKIT_HOME.",
    errno.EIO: "The disk or its network is failing: see `dmesg | tail`, and take another disk: folder=..., LABKIT_HOME.",
    errno.ENAMETOOLONG: "Take a folder with a shorter path: folder=..., LABKIT_HOME.",
    errno.EMFILE: "Raise the limit in the terminal before the notebook starts: ulimit -n 4096.",
    errno.ENFILE: "Too much runs on this machine: end something.",
}


def of_the_disk(evidence: Evidence) -> Link | None:
    """The first exception that a disk raised. Sockets raise EACCES and EPERM too: then an exception of a network library is above."""
    above: list[Link] = []
    for link in evidence.links:
        network = any(one.module in ("httpx", "httpx2", "httpcore", "httpcore2", "urllib3") and one.file == link.file for one in above)
        if link.number in DISK and not (network and link.number in (errno.EACCES, errno.EPERM, errno.ENXIO, errno.ENODEV)):
            return link
        above.append(link)
    return None
