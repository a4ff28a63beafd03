"""What the evidence of a failed download means: an error with cause and fix, and whether a second try could help.

Covers: disks, busy hubs, HTTP answers, TLS, names, proxies, connections, wrong bytes, settings of the reader. What is none of these is
said to be unknown, with the last exception's own words. Does not cover: taking the evidence (`evidence`, `printed`), what a file is
that came instead of the model's (`models.contents`). Used by notebook 02 through `downloads` and `listings`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..common.errors import DownloadError, NoSpace, SettingError, VerificationError
from ..models.contents import MESSAGE, PAGE, recognise
from .endpoints import HUGGINGFACE, MODELSCOPE
from .evidence import DISK, Evidence, Link, of_the_disk
from .failed_connections import ANSWERS_OF_PROXIES, connection
from .patience import BUSY, WAIT_SECONDS

KEPT = "What arrived is kept: run the same cell again."
ELSEWHERE = "Or take another source."


@dataclass(frozen=True)
class Asked:
    """Who was asked for what, with which settings: it decides which advice is possible."""

    source: str = ""
    title: str = "The hub"
    endpoint: str = ""
    model: str = ""
    place: str = ""
    proxy: str = ""
    token: bool = False

    @property
    def host(self) -> str:
        """The host of the endpoint, with its port."""
        return self.endpoint.partition("://")[2].partition("/")[0] or self.title

    @property
    def mirror(self) -> bool:
        """Whether it is a mirror that the reader chose."""
        return bool(self.endpoint) and self.endpoint not in (HUGGINGFACE, MODELSCOPE) and not self.endpoint.startswith("http://127.0.0.1:")

    @property
    def other_way(self) -> str:
        """Another way to the same model, never the one that is taken already."""
        if self.source != "huggingface":
            return 'Or take source="huggingface".'
        if self.mirror:
            return f'Or take source="modelscope", or another endpoint than {self.endpoint} (HF_ENDPOINT).'
        return 'Or take source="modelscope", or a mirror: export HF_ENDPOINT=https://hf-mirror.com before the notebook starts.'


@dataclass(frozen=True)
class Failure:
    """What it was: `kind` for programs, cause and fix for people. `again`: whether a second try at once could help."""

    kind: str
    cause: str
    fix: str
    error: type[DownloadError] | type[SettingError] = DownloadError
    again: bool = False

    def raised(self, behind: str = "") -> DownloadError | SettingError:
        """The error to raise; `behind` is put behind the cause: the client's own words, its log."""
        return self.error(f"{self.cause} {behind}".strip(), self.fix)


Rule = Callable[[Evidence, Asked], Failure | None]


def classify(evidence: Evidence, asked: Asked) -> Failure:
    """What the evidence means. A disk decides before all else, then the last HTTP answer, then what broke the connection."""
    for rule in RULES:
        failure = rule(evidence, asked)
        if failure:
            return failure
    return Failure("unknown", f"{asked.title}'s client failed, and labkit does not know this failure.", f"{KEPT} {ELSEWHERE}", again=True)


def disk(evidence: Evidence, asked: Asked) -> Failure | None:
    link = of_the_disk(evidence)
    if link is None:
        return None
    import errno

    place = link.path or asked.place
    where = f" at {place}" if place else ""
    what = DISK[link.number]
    if link.number == errno.ENOSPC:
        what, fix = "The disk ran full", "Make room there (df -h; df -i counts files), or take another disk: folder=..., LABKIT_HOME."
        return Failure("disk", f"{what} while downloading{where}.", f"{fix} Then run the same cell again: what arrived is kept.", NoSpace)
    if link.number == errno.EDQUOT:
        cause = f"Disk quota exceeded{where}: {what}, though the disk itself may have room."
        fix = (
            "Make room there (quota -s shows it; on a shared machine ask its administrator), or take another disk: folder=..., LABKIT_HOME."
        )
        return Failure("disk", cause, f"{fix} Then run the same cell again: what arrived is kept.", NoSpace)
    fixes = {
        errno.EFBIG: "Take a folder on another file system (FAT32 ends at 4 GB): folder=..., LABKIT_HOME; `ulimit -f` shows a limit.",
        errno.EROFS: "Take a folder on a disk that can be written: folder=..., LABKIT_HOME. `mount` shows which are read-only (ro).",
        errno.EACCES: "Take a folder of yours (folder=..., LABKIT_HOME), or let its owner give it to you: ls -ld shows who that is.",
        errno.EPERM: "Take a folder of yours, on a file system of Linux: folder=..., LABKIT_HOME.",
        errno.EIO: "The disk or its network is failing: see `dmesg | tail`, and take another disk: folder=..., LABKIT_HOME.",
        errno.ENAMETOOLONG: "Take a folder with a shorter path: folder=..., LABKIT_HOME.",
        errno.EMFILE: "Raise the limit in the terminal before the notebook starts: ulimit -n 4096.",
        errno.ENFILE: "Too much runs on this machine: end something.",
    }
    in_the_way = "Move what lies there out of the way, then run the same cell again."
    fix = fixes.get(link.number, in_the_way if link.number in (errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY) else "See to that disk first.")
    return Failure("disk", f"The disk refused to be written{where}: {what}.", fix, NoSpace if link.number == errno.EFBIG else DownloadError)


def busy(evidence: Evidence, asked: Asked) -> Failure | None:
    link = next((link for link in evidence.links if link.status in BUSY), None)
    if link is None:
        return None
    host = link.host or asked.host
    asks = ""
    if evidence.busy is not None:
        asks = (
            f"; it asks to be left alone for {evidence.busy:.0f} s, and labkit waits {WAIT_SECONDS:.0f} s at most" if evidence.busy else ""
        )
    waited = asks or "; it was waited for and asked again"
    when = f"after {evidence.busy / 60:.0f} min" if evidence.busy and evidence.busy >= 90 else "in some minutes"
    if link.status == 429:
        cause = f"{host} answers to too many requests from here (HTTP 429){waited}."
        token = "" if asked.token else " With a token (HF_TOKEN) the limit is higher." if asked.source == "huggingface" else ""
        return Failure("busy", cause, f"{KEPT[:-1]} {when}.{token} {asked.other_way}")
    cause = f"{host} is in trouble (HTTP {link.status}){waited}."
    if link.status >= 500 and (page := recognise(link.body.encode())) and page.kind == PAGE and page.words:
        cause = f'{host} is in trouble (HTTP {link.status}, "{page.words}"){waited}.'
    return Failure("busy", cause, f"{KEPT[:-1]} {when}. {asked.other_way}")


def answer(evidence: Evidence, asked: Asked) -> Failure | None:
    """The last HTTP answer that is an error and does not pass by itself."""
    link = next((link for link in evidence.links if 300 <= link.status < 600 and link.status not in BUSY), None)
    if link is None or link.status == 416:
        return None
    host, thing = link.host or asked.host, f"{link.file} of {asked.model}" if link.file else asked.model or "this model"
    said = _said(link)
    if 300 <= link.status < 400:
        return loop(replace(evidence, links=(replace(link, type="TooManyRedirects"),)), asked)
    if link.status == 407:
        return Failure("proxy", f"The proxy{_named(asked)} wants a name and a password (HTTP 407).", ANSWERS_OF_PROXIES)
    if link.status in (404, 410):
        return _absent(link, host, thing, said)
    if link.status in (401, 403):
        return _closed(link, host, thing, said, asked)
    if link.status == 451:
        return Failure("withdrawn", f"{host} may not give {thing} here, for legal reasons (HTTP 451).{said}", "Take another source.")
    return Failure(
        "refused", f"{host} refused {thing} with HTTP {link.status}.{said}", f"Check the model's name and HF_ENDPOINT. {asked.other_way}"
    )


def _said(link: Link) -> str:
    """What the hub itself says of it, in quotation marks, or nothing."""
    words = link.headers.get("x-error-message", "")
    content = None if words else recognise(link.body.encode())
    words = words or (content.words if content and content.kind in (MESSAGE, PAGE) else "")
    if not words and (found := re.search(r"""['"](?:[Mm]essage|error|detail)['"]: *['"]([^'"]+)""", link.body)):
        words = found[1]
    return f' It says: "{words[:200]}".' if words else ""


def _absent(link: Link, host: str, thing: str, said: str) -> Failure:
    code = link.headers.get("x-error-code", "")
    if code == "RevisionNotFound" or "RevisionNotFound" in link.type or re.search(r"(?i)revision|版本", said):
        cause = f"{host} has {thing}, but not the revision that was asked for (HTTP 404).{said}"
        return Failure("absent", cause, "The branch may be called otherwise or was deleted: see the model's page. Or take another source.")
    if link.file or code == "EntryNotFound" or "EntryNotFound" in link.type or link.type == "GitNotFound":
        cause = f"The hub does not have what it lists (404): {host} lacks {'a file of ' if not link.file else ''}{thing}.{said}"
        return Failure("absent", cause, "Try again later, or take another source.")
    cause = f"{host} has no model {thing} (HTTP 404), or does not show it without a login.{said}"
    return Failure("absent", cause, "Check the model's name for a typing error; a private one needs your token. Or take another source.")


def _closed(link: Link, host: str, thing: str, said: str, asked: Asked) -> Failure:
    """401 and 403: terms to be accepted, a token that is missing or wrong, or a wall in front of the hub."""
    variable = "HF_TOKEN" if asked.source == "huggingface" else "MODELSCOPE_API_TOKEN"
    page = recognise(link.body.encode())
    if page and page.kind == PAGE and "gated" not in link.body.lower():
        cause = f"{host} or something in front of it keeps this machine out (HTTP {link.status}).{said}"
        return Failure("wall", cause, f"{page.fix} {asked.other_way}")
    gated = "gated" in f"{link.headers.get('x-error-code', '')} {link.type} {link.body} {said}".lower()
    if gated:
        cause = f"{host} wants you to accept the terms of {thing} first (gated, HTTP {link.status}).{said}"
        return Failure("login", cause, f"Log in at the model's page in the browser, accept the terms, then export your token ({variable}).")
    if asked.token:
        cause = f"{host} does not take your token for {thing} (HTTP {link.status}).{said}"
        fix = f"Make a new token with the right to read, export {variable}=<token>; or unset {variable}: a public model needs none."
        return Failure("login", cause, fix)
    cause = f"The hub wants you to log in: {host} does not give {thing} to everybody (HTTP {link.status}).{said}"
    fix = f"Check the model's name; if it is right, accept its terms in the browser, then export the token ({variable})."
    return Failure("login", cause, fix)


def loop(evidence: Evidence, asked: Asked) -> Failure | None:
    if not any(link.type == "TooManyRedirects" or "redirect error that would lead" in link.words for link in evidence.links):
        return None
    host = next((link.host for link in evidence.links if link.host), asked.host)
    fix = f"A mirror or proxy is set up wrong: check HF_ENDPOINT and the proxy. {asked.other_way}"
    return Failure("redirects", f"{host} sends the request in a circle of redirects.", fix)


def bytes_(evidence: Evidence, asked: Asked) -> Failure | None:
    """Other bytes than listed, which a client found before labkit's own check."""
    wrong = ("FileIntegrityError", "FileSizeMismatchError", "GitMismatch")
    words = r"Consistency check failed|hash mismatch|size validation failed|expected OID"
    link = next((link for link in evidence.links if link.type in wrong or re.search(rf"(?i){words}", link.words)), None)
    if link is None:
        return None
    named = f" ({link.file})" if link.file else ""
    return Failure(
        "bytes", f"The hub delivered other bytes than it lists{named}.", "Try again later, or take another source.", VerificationError, True
    )


def settings(evidence: Evidence, asked: Asked) -> Failure | None:
    """Something that the reader set: a token with a line end in it, a number that is none, a proxy without its package."""
    for link in evidence.links:
        if re.search(
            r"(?i)illegal header value|invalid header value|invalid leading whitespace|LocalProtocolError", f"{link.type} {link.words}"
        ):
            cause = "The token has a blank, a line end or another sign in it that no HTTP header may have."
            return Failure("setting", cause, "Export HF_TOKEN (or MODELSCOPE_API_TOKEN) again, without what surrounds it.", SettingError)
        if link.type in ("ImportError", "InvalidSchema", "ModuleNotFoundError") and "socks" in link.words.lower():
            cause = f"The proxy{_named(asked)} is a SOCKS proxy, for which the client lacks a package (socksio)."
            fix = "Export its HTTP address instead (http_proxy, https_proxy, no ALL_PROXY), or download(..., proxy=False)."
            return Failure("proxy", cause, fix, SettingError)
        if "TLS CA certificate bundle" in link.words:
            cause = f"A variable names certificates that are not there: {link.words[:200]}."
            return Failure("setting", cause, "unset REQUESTS_CA_BUNDLE CURL_CA_BUNDLE SSL_CERT_FILE, or name the right file.", SettingError)
        if link.type in ("InvalidURL", "UnsupportedProtocol", "MissingSchema", "InvalidProxyURL"):
            cause = f"An address of a hub or a proxy is no address: {link.words[:200]}."
            return Failure("setting", cause, "See HF_ENDPOINT, MODELSCOPE_ENDPOINT, http_proxy, https_proxy, ALL_PROXY.", SettingError)
        if link.type == "NotGit":
            cause = f"{asked.host} answers git with something else, as a web page of a proxy, a mirror or the network's login does."
            return Failure("wall", cause, f"Log in to the network, switch the proxy off or on (proxy=False, proxy=True). {asked.other_way}")
        if link.type == "DubiousOwnership":
            return Failure(
                "setting", f"git refuses {asked.place}: it belongs to another user.", "Take a folder of yours: folder=...", SettingError
            )
        if link.type in ("ImportError", "ModuleNotFoundError"):
            cause = f"The client cannot be loaded: {link.words[:200]}."
            return Failure("setting", cause, "The notebooks' environment is damaged: ./lab doctor says more.", SettingError)
    return None


def _named(asked: Asked) -> str:
    return f" {asked.proxy}" if asked.proxy else ""


def broken(evidence: Evidence, asked: Asked) -> Failure | None:
    """Whatever kept a connection from being made, or ended it; a host that is not the endpoint's is named."""
    found = connection(evidence, asked.proxy)
    if found is None:
        return None
    host = found.host or asked.host
    led = ""
    if asked.endpoint and host != asked.host and asked.mirror:
        led = f"{asked.host} sent the request on to {host}. "
    way = asked.other_way if found.elsewhere else ""
    return Failure(found.kind, f"{led}{found.cause.format(host=host)}", f"{found.fix} {way}".strip(), again=found.again)


RULES: tuple[Rule, ...] = (disk, busy, answer, loop, settings, bytes_, broken)


def explain(evidence: Evidence, asked: Asked, exit_code: int, log: Path) -> tuple[DownloadError | SettingError, Failure]:
    """The error for a client that ended with `exit_code`, and what was found out."""
    failure = classify(evidence, asked)
    ended = f"{asked.title}'s client ended with code {exit_code}"
    if exit_code < 0:
        ended = f"{asked.title}'s client was ended by signal {-exit_code}"
        if exit_code == -9 and not evidence.links:
            cause = f"{ended} (SIGKILL), as when the machine runs out of memory."
            failure = Failure("killed", cause, f"{KEPT} See `free -h` and what else runs.", again=True)
            return failure.raised(f"\nIts log: {log}"), failure
    telling = _telling(evidence)
    if telling and telling.type == "Answer":
        return failure.raised(f"\nIts log: {log}"), failure
    return failure.raised(f"{ended}: {str(telling or 'it left no word of why')[:300]}\nIts log: {log}"), failure


def _telling(evidence: Evidence) -> Link | None:
    """The exception to quote: the first that names a file or carries a number, else the last one."""
    return next((link for link in evidence.links if link.file or link.number or link.status), evidence.last)
