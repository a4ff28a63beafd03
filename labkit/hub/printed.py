"""Evidence in what a program printed: the last traceback of a log, and the words of git and git-lfs.

Covers: exception lines (frames, with their numbers, are no evidence), git and git-lfs in English (they are run with LC_ALL=C), as
error numbers, statuses and hosts. Does not cover: exceptions that are at hand (`evidence`). Standard library only.
Texts are those of git 2.39 to 2.50, curl 7.88 to 8.14, git-lfs 3.3 to 3.7 and CPython 3.11 and 3.12.
"""

from __future__ import annotations

import errno
import os
import re

from .evidence import DISK, WORDS, Evidence, Link, without_secrets

STAMP = re.compile(r"^\d{4}-\d\d-\d\d[T ][\d:,.]+ *[|-]? *(?:[\w.]+ *[|-] *)?(DEBUG|INFO|WARNING|ERROR|CRITICAL) *[|:-] *")
"""What a log puts before each line: time (whose milliseconds may read 404) and level."""
EXCEPTION = re.compile(r"^(?:\s*[|+] ?)?(?P<name>(?:[A-Za-z_]\w*\.)*[A-Z]\w*)(?:: (?P<words>.*))?$")
RAISED = re.compile(
    r"(Error|Exception|Warning|Interrupt|Exit|Timeout|Refused|Expired|NotExist|Exceeded|Protocol|NotFound|Mismatch|Busy)\w*$"
)
HTTP = re.compile(
    r"(?i)\b(?:HTTP(?:/[\d.]+)?(?: status(?: code)?| error| code)?:? |status(?: code)?[ :=]+|returned error: |from HTTP )"
    r"['\"]?([1-5]\d\d)\b"
    r"|\b(?:Client|Server) error '([1-5]\d\d)\b|\b([1-5]\d\d) (?:Client|Server) Error\b|^(?:\[E\d{4}\] )?\[([1-5]\d\d)\]"
)
HOST = re.compile(r"https?://(?:[^/\s@'\"]+@)?([^/\s'\":]+(?::\d+)?)")
NUMBERS = {os.strerror(number).lower(): number for number in DISK} | {
    os.strerror(number).lower(): number
    for number in (errno.ECONNREFUSED, errno.ECONNRESET, errno.ETIMEDOUT, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EPIPE)
}
GIT_LINE = re.compile(r"^(?:remote: )?(fatal|error|LFS|batch response|Fetch error|Error|curl|git-lfs)\b[:\w ]*|expired|^Smudge error")
GENERAL = r"failed to fetch some objects from|^fetch: Fetching|^Fetching reference"
"""Lines that only say that something went wrong; the ones before them say what."""
GIT: tuple[tuple[str, str, int], ...] = (
    (r"(?i)could not resolve (host|proxy)|name or service not known|no such host|temporary failure in name resolution", "gaierror", 0),
    (r"(?i)certificate|x509|SSL: no alternative|server verification failed", "SSLCertVerificationError", 0),
    (r"(?i)\bSSL\b|\bTLS\b|gnutls|schannel", "SSLError", 0),
    (r"(?i)\bproxy|\b407\b", "ProxyError", 0),
    (r"(?i)is this a git repository|invalid character '<'|beginning of value|unable to parse HTTP response|text/html", "NotGit", 0),
    (r"(?i)couldn't find remote ref HEAD|cloned an empty repository", "NoHead", 0),
    (r"(?i)dubious ownership", "DubiousOwnership", 0),
    (
        r"(?i)authentication failed|could not read (username|password)|authorization error|authentication required|access denied",
        "GitLogin",
        401,
    ),
    (r"(?i)repository .* not found|object does not exist|not found on the server|repository or object not found", "GitNotFound", 404),
    (r"(?i)connection refused|couldn't connect|failed to connect", "ConnectionRefusedError", errno.ECONNREFUSED),
    (r"(?i)reset by peer|recv failure|send failure", "ConnectionResetError", errno.ECONNRESET),
    (r"(?i)timed out|timeout|too slow|i/o timeout", "TimeoutError", errno.ETIMEDOUT),
    (r"(?i)network is unreachable|no route to host", "ConnectionError", errno.ENETUNREACH),
    (r"(?i)expected OID|size mismatch|invalid size|hash mismatch|invalid sha1|does not match", "GitMismatch", 0),
    (r"(?i)too many redirects|redirect", "TooManyRedirects", 0),
    (
        r"(?i)early EOF|remote end hung up|RPC failed|unexpected (EOF|disconnect)|transfer closed|empty reply|broken pipe",
        "IncompleteRead",
        0,
    ),
    (r"(?i)unable to (create|write|rename|unlink)|cannot create|could not create|failed to write", "GitDisk", 0),
)
"""(words of git, curl or git-lfs, the exception that says the same, error number or HTTP status)"""


def from_log(text: str) -> Evidence:
    """The evidence in a log of Python: its last exception first. Without one: the last line that was logged as an error."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    links, errors = [], []
    for line in lines:
        stamp = STAMP.match(line)
        if stamp:
            errors += [line[stamp.end() :]] if stamp[1] in ("ERROR", "CRITICAL") else []
            continue
        found = EXCEPTION.match(line)
        if found and RAISED.search(found["name"]):
            links.append(_python(found["name"], found["words"] or ""))
    if not links and not errors:
        return from_git(text)
    logged = [_python("", words) for words in reversed(errors)]
    return Evidence(tuple([*reversed(links), *logged])[:24])


def from_git(text: str) -> Evidence:
    """The evidence in what git and git-lfs printed, the last line first: that is the one which ended it."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not STAMP.match(line)]
    known = [line for line in lines if HTTP.search(line) or _number(line) or any(re.search(words, line) for words, _, _ in GIT)]
    telling = [line for line in known if not re.search(GENERAL, line)] or [line for line in lines if GIT_LINE.match(line)]
    return Evidence(tuple(_git(line) for line in reversed(telling[-12:] or lines[-1:])))


def _python(name: str, words: str) -> Link:
    number = re.search(r"\[Errno (-?\d+)\]", words)
    status, host = HTTP.search(words), HOST.search(words)
    path = re.search(r"\[Errno \d+\] [^:']+: '([^']+)'", words)
    short = name.rpartition(".")[2] or "ERROR"
    lookup = "NameResolutionError" in words or (number is not None and int(number[1]) < 0)
    return Link(
        type="gaierror" if lookup else short,
        module=name.partition(".")[0] if "." in name else "",
        words=without_secrets(words)[:WORDS],
        number=int(number[1]) if number and int(number[1]) > 0 else _number(words),
        path=path[1] if path else "",
        status=_status(status),
        host=host[1] if host else "",
    )


def _git(line: str) -> Link:
    host, status, number = HOST.search(line), HTTP.search(line), _number(line)
    kind, code = next(((kind, code) for words, kind, code in GIT if re.search(words, line)), ("git", 0))
    path = re.search(r"(?:unable to (?:create|write|rename|unlink)(?: file)?|open|write|mkdir) '?(/[^':\n]+?)(?:'|: |$)", line)
    return Link(
        type=kind if not (number in DISK and kind != "git") else "git",
        module="git",
        words=without_secrets(line)[:WORDS],
        number=number or (code if 0 < code < 400 else 0),
        path=path[1] if path and number in DISK else "",
        status=_status(status) or (code if code >= 400 else 0),
        host=host[1] if host else "",
    )


def _number(words: str) -> int:
    low = words.lower()
    return next((number for text, number in NUMBERS.items() if text in low), 0)


def _status(found: re.Match[str] | None) -> int:
    return next((int(group) for group in found.groups() if group), 0) if found else 0
