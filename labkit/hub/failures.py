"""What the evidence of a failed download means: an error with cause and fix, and whether a second try could help.

Covers: disks, busy hubs, HTTP answers, TLS, names, proxies, connections, wrong bytes, settings of the reader. What is none of these is
said to be unknown, with the last exception's own words. Does not cover: taking the evidence (`evidence`, `printed`), what a file is
that came instead of the model's (`models.contents`). Used by notebook 02 through `downloads` and `listings`.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..common.errors import DownloadError, NoSpace, SettingError, VerificationError
from ..models.contents import MESSAGE, PAGE, recognise
from .evidence import DISK, DISK_FIXES, IN_THE_WAY, Evidence, Link, of_the_disk
from .failed_connections import ANSWERS_OF_PROXIES, connection
from .patience import BUSY, WAIT_SECONDS, span
from .verdicts import ELSEWHERE, KEPT, Asked, Mishap

Rule = Callable[[Evidence, Asked], Mishap | None]


def classify(evidence: Evidence, asked: Asked) -> Mishap:
    """What the evidence means. A disk decides before all else, then the last HTTP answer, then what broke the connection."""
    for rule in RULES:
        failure = rule(evidence, asked)
        if failure:
            return failure
    return Mishap("unknown", f"{asked.title}'s client failed, and labkit does not know this failure.", f"{KEPT} {ELSEWHERE}", again=True)


def disk(evidence: Evidence, asked: Asked) -> Mishap | None:
    link = of_the_disk(evidence)
    if link is None:
        return None
    place = link.path or asked.place
    if link.number == errno.ENOTDIR:
        place = next((str(part) for part in reversed([Path(place), *Path(place).parents]) if part.is_file()), place)
    where = f" at {place}" if place else ""
    what = DISK[link.number]
    if link.number == errno.ENOSPC:
        what, fix = "The disk ran full", "Make room there (df -h; df -i counts files), or take another disk: folder=..., LABKIT_HOME."
        return Mishap("disk", f"{what} while downloading{where}.", f"{fix} Then run the same cell again: what arrived is kept.", NoSpace)
    if link.number == errno.EDQUOT:
        cause = f"Disk quota exceeded{where}: {what}, though the disk itself may have room."
        fix = (
            "Make room there (quota -s shows it; on a shared machine ask its administrator), or take another disk: folder=..., LABKIT_HOME."
        )
        return Mishap("disk", cause, f"{fix} Then run the same cell again: what arrived is kept.", NoSpace)
    in_the_way = "Move what lies there out of the way, then run the same cell again."
    fix = DISK_FIXES.get(
        link.number, in_the_way if link.number in IN_THE_WAY else "See to that disk first, or take another: folder=..., LABKIT_HOME."
    )
    return Mishap("disk", f"The disk refused to be written{where}: {what}.", fix, NoSpace if link.number == errno.EFBIG else DownloadError)


def busy(evidence: Evidence, asked: Asked) -> Mishap | None:
    link = next((link for link in evidence.links if link.status in BUSY), None)
    if link is None:
        return None
    host = link.host or asked.host
    waited = "; it was waited for and asked again"
    if evidence.busy and evidence.busy > WAIT_SECONDS:
        waited = f"; it asks to be left alone for {span(evidence.busy)}, and labkit waits {span(WAIT_SECONDS)} at most"
    elif evidence.busy:
        waited = f"; it was waited for, {span(WAIT_SECONDS)} at most, and asks to be left alone for another {span(evidence.busy)}"
    when = f"after {span(evidence.busy)}" if evidence.busy and evidence.busy >= 90 else "in some minutes"
    when = "on another day" if evidence.busy and evidence.busy >= 86400 else when
    if link.status == 429:
        cause = f"{host} answers to too many requests from here (HTTP 429){waited}."
        token = "" if asked.token else " With a token (HF_TOKEN) the limit is higher." if asked.source == "huggingface" else ""
        return Mishap("busy", cause, f"{KEPT[:-1]} {when}.{token} {asked.other_way}")
    host += f" or the proxy {asked.proxy}" if asked.proxy and link.status in (502, 503, 504) else ""
    cause = f"{host} is in trouble (HTTP {link.status}){waited}."
    if link.status >= 500 and (page := recognise(link.body.encode())) and page.kind == PAGE and page.words:
        cause = f'{host} is in trouble (HTTP {link.status}, "{page.words}"){waited}.'
    return Mishap("busy", cause, f"{KEPT[:-1]} {when}. {asked.other_way}")


def answer(evidence: Evidence, asked: Asked) -> Mishap | None:
    """The last HTTP answer that is an error and does not pass by itself."""
    link = next((link for link in evidence.links if 300 <= link.status < 600 and link.status not in BUSY), None)
    if link is None or link.status == 416:
        return None
    host, thing = link.host or asked.host, f"{link.file} of {asked.model}" if link.file else asked.model or "this model"
    said = _said(link)
    if 300 <= link.status < 400:
        return loop(replace(evidence, links=(replace(link, type="TooManyRedirects"),)), asked)
    if link.status == 407:
        return Mishap("proxy", f"The proxy{asked.through} wants a name and a password (HTTP 407).", ANSWERS_OF_PROXIES)
    if link.status in (404, 410):
        return _absent(link, host, thing, said)
    if link.status in (401, 403):
        return _closed(link, host, thing, said, asked)
    if link.status == 451:
        return Mishap("withdrawn", f"{host} may not give {thing} here, for legal reasons (HTTP 451).{said}", "Take another source.")
    if link.status == 511:
        fix = "Open any web page in a browser here and log in, then run the same cell again."
        return Mishap("wall", f"This network wants a login before it lets anything through (HTTP 511).{said}", fix)
    if link.status >= 500:
        return Mishap("trouble", f"{host} is in trouble (HTTP {link.status}).{said}", f"{KEPT[:-1]} in some minutes. {asked.other_way}")
    check = "Try again later." if link.file else f"Check the model's name and the hub's address ({asked.variable})."
    return Mishap("refused", f"{host} refused {thing} with HTTP {link.status}.{said}", f"{check} {asked.other_way}")


def _said(link: Link) -> str:
    """What the hub itself says of it, in quotation marks, or nothing."""
    words = link.headers.get("x-error-message", "")
    content = None if words else recognise(link.body.encode())
    words = words or (content.words if content and content.kind in (MESSAGE, PAGE) else "")
    if not words and (found := re.search(r"""['"](?:[Mm]essage|error|detail)['"]: *['"]([^'"]+)""", link.body)):
        words = found[1]
    return f' It says: "{words[:200]}".' if words else ""


def _absent(link: Link, host: str, thing: str, said: str) -> Mishap:
    code = link.headers.get("x-error-code", "")
    if code == "RevisionNotFound" or "RevisionNotFound" in link.type or re.search(r"(?i)revision|版本", said):
        cause = f"{host} has {thing}, but not the revision that was asked for (HTTP 404).{said}"
        return Mishap("absent", cause, "The branch may be called otherwise or was deleted: see the model's page. Or take another source.")
    if link.file or code == "EntryNotFound" or "EntryNotFound" in link.type or link.type == "GitNotFound":
        cause = f"The hub does not have what it lists ({link.status}): {host} lacks {'a file of ' if not link.file else ''}{thing}.{said}"
        return Mishap("absent", cause, "Try again later, or take another source.")
    if link.status == 410:
        return Mishap("absent", f"{host} says that {thing} was taken away (HTTP 410).{said}", "Take another source.")
    cause = f"{host} has no model {thing} (HTTP 404), or does not show it without a login.{said}"
    return Mishap("absent", cause, "Check the model's name for a typing error; a private one needs your token. Or take another source.")


def _closed(link: Link, host: str, thing: str, said: str, asked: Asked) -> Mishap:
    """401 and 403: terms to be accepted, a token that is missing or wrong, or a wall in front of the hub."""
    variable = "HF_TOKEN" if asked.source == "huggingface" else "MODELSCOPE_API_TOKEN"
    page = recognise(link.body.encode())
    if page and page.kind == PAGE and "gated" not in link.body.lower():
        cause = f"{host} or something in front of it keeps this machine out (HTTP {link.status}).{said}"
        return Mishap("wall", cause, f"{page.fix} {asked.other_way}")
    gated = "gated" in f"{link.headers.get('x-error-code', '')} {link.type} {link.body} {said}".lower()
    if gated:
        cause = f"{host} wants you to accept the terms of {thing} first (gated, HTTP {link.status}).{said}"
        return Mishap("login", cause, f"Log in at the model's page in the browser, accept the terms, then export your token ({variable}).")
    if asked.token:
        cause = f"{host} does not take your token for {thing} (HTTP {link.status}).{said}"
        fix = f"Make a new token with the right to read, export {variable}=<token>; or unset {variable}: a public model needs none."
        return Mishap("login", cause, fix)
    if re.search(r"(?i)skew|expired", said):
        cause = f"{host} takes the request for {thing} for one of another time (HTTP {link.status}).{said}"
        return Mishap("clock", cause, "See that this machine's clock is right (date), then run the same cell again.")
    if link.status == 403 and (link.file or link.module == "git"):  # the list was given
        fix = (
            f"If its page wants terms accepted, do so and export the token ({variable}); else a wall or a proxy may be in the way (proxy=)."
        )
        return Mishap("login", f"{host} lists {thing} and does not give it to this machine (HTTP 403).{said}", f"{fix} {asked.other_way}")
    cause = f"The hub wants you to log in: {host} does not give {thing} to everybody (HTTP {link.status}).{said}"
    fix = f"Check the model's name; if it is right, accept its terms in the browser, then export the token ({variable})."
    return Mishap("login", cause, fix)


def loop(evidence: Evidence, asked: Asked) -> Mishap | None:
    if not any(link.type == "TooManyRedirects" or "redirect error that would lead" in link.words for link in evidence.links):
        return None
    host = next((link.host for link in evidence.links if link.host), asked.host)
    fix = f"A mirror or proxy is set up wrong: check HF_ENDPOINT and the proxy. {asked.other_way}"
    return Mishap("redirects", f"{host} sends the request in a circle of redirects.", fix)


def past_the_end(evidence: Evidence, asked: Asked) -> Mishap | None:
    """416 and nothing else: a part was asked for that the hub says it has not."""
    link = next((link for link in evidence.links if link.status == 416), None)
    if link is None:
        return None
    cause = f"The hub delivered other bytes than it lists: it has no such part of {link.file or 'a file'} (HTTP 416)."
    return Mishap("bytes", cause, "Try again later, or take another source.", VerificationError, True)


def bytes_(evidence: Evidence, asked: Asked) -> Mishap | None:
    """Other bytes than listed, which a client found before labkit's own check."""
    wrong = ("FileIntegrityError", "FileSizeMismatchError", "GitMismatch")
    words = r"Consistency check failed|hash mismatch|size validation failed|expected OID"
    link = next((link for link in evidence.links if link.type in wrong or re.search(rf"(?i){words}", link.words)), None)
    if link is None:
        return None
    named = f" ({link.file})" if link.file else ""
    return Mishap(
        "bytes", f"The hub delivered other bytes than it lists{named}.", "Try again later, or take another source.", VerificationError, True
    )


def settings(evidence: Evidence, asked: Asked) -> Mishap | None:
    """Something that the reader set: a token with a line end in it, a number that is none, a proxy without its package."""
    for link in evidence.links:
        if re.search(
            r"(?i)illegal header value|invalid header value|invalid leading whitespace|LocalProtocolError", f"{link.type} {link.words}"
        ):
            cause = "The token has a blank, a line end or another sign in it that no HTTP header may have."
            return Mishap("setting", cause, "Export HF_TOKEN (or MODELSCOPE_API_TOKEN) again, without what surrounds it.", SettingError)
        if link.type in ("ImportError", "InvalidSchema", "ModuleNotFoundError") and "socks" in link.words.lower():
            cause = f"The proxy{asked.through} is a SOCKS proxy, for which the client lacks a package (socksio)."
            fix = "Export its HTTP address instead (http_proxy, https_proxy, no ALL_PROXY), or download(..., proxy=False)."
            return Mishap("proxy", cause, fix, SettingError)
        if "TLS CA certificate bundle" in link.words:
            cause = f"A variable names certificates that are not there: {link.words[:200]}."
            return Mishap("setting", cause, "unset REQUESTS_CA_BUNDLE CURL_CA_BUNDLE SSL_CERT_FILE, or name the right file.", SettingError)
        if link.type in ("InvalidURL", "UnsupportedProtocol", "MissingSchema", "InvalidProxyURL"):
            cause = f"An address of a hub or a proxy is no address: {link.words[:200]}."
            return Mishap("setting", cause, "See HF_ENDPOINT, MODELSCOPE_ENDPOINT, http_proxy, https_proxy, ALL_PROXY.", SettingError)
        if "does not seem to be served by a Hugging Face Hub" in link.words:
            cause = f"{asked.host} answered for {link.file or asked.model} as no hub of Hugging Face does."
            return Mishap("strange", cause, f"See that HF_ENDPOINT names such a hub, and the proxy. {asked.other_way}", again=True)
        if link.type == "JSONDecodeError":
            cause = f"{asked.host} answered something that is no JSON where a hub answers JSON, as a web page of a proxy or a login does."
            return Mishap("wall", cause, f"Log in to the network, switch the proxy off or on (proxy=False, proxy=True). {asked.other_way}")
        if link.type == "InvalidSchema":
            cause = f"{asked.host} sends the request on to an address that the client cannot ask: {link.words[:200]}."
            return Mishap("redirects", cause, f"A mirror or proxy is set up wrong: check {asked.variable}. {asked.other_way}")
        if link.type == "NoHead":
            cause = f"{asked.host} shows git no branch: {asked.model} is empty there, or a page of a proxy or a login answers in its place."
            return Mishap("wall", cause, f"Log in to the network, switch the proxy off or on (proxy=False, proxy=True). {asked.other_way}")
        if link.type == "NotGit":
            cause = f"{asked.host} answers git with something else, as a web page of a proxy, a mirror or the network's login does."
            return Mishap("wall", cause, f"Log in to the network, switch the proxy off or on (proxy=False, proxy=True). {asked.other_way}")
        if link.type == "DubiousOwnership":
            return Mishap(
                "setting", f"git refuses {asked.place}: it belongs to another user.", "Take a folder of yours: folder=...", SettingError
            )
        if link.type in ("ImportError", "ModuleNotFoundError"):
            cause = f"The client cannot be loaded: {link.words[:200]}."
            return Mishap("setting", cause, "The notebooks' environment is damaged: ./lab doctor says more.", SettingError)
    return None


def broken(evidence: Evidence, asked: Asked) -> Mishap | None:
    """Whatever kept a connection from being made, or ended it; a host that is not the endpoint's is named."""
    found = connection(evidence, asked.proxy)
    if found is None:
        return None
    host = found.host or asked.host
    led = ""
    if asked.endpoint and host != asked.host and asked.mirror:
        led = f"{asked.host} sent the request on to {host}. "
    way = asked.other_way if found.elsewhere else ""
    return Mishap(found.kind, f"{led}{found.cause.format(host=host)}", f"{found.fix} {way}".strip(), again=found.again)


RULES: tuple[Rule, ...] = (disk, busy, answer, loop, settings, bytes_, broken, past_the_end)


def explain(evidence: Evidence, asked: Asked, exit_code: int, log: Path) -> tuple[DownloadError | SettingError, Mishap]:
    """The error for a client that ended with `exit_code`, and what was found out."""
    failure = classify(evidence, asked)
    ended = f"{asked.title}'s client ended with code {exit_code}"
    if exit_code < 0:
        ended = f"{asked.title}'s client was ended by signal {-exit_code}"
        if exit_code == -9 and not evidence.links:
            cause = f"{ended} (SIGKILL), as when the machine runs out of memory."
            failure = Mishap("killed", cause, f"{KEPT} See `free -h` and what else runs.", again=True)
            return failure.raised(f"\nIts log: {log}"), failure
    telling = _telling(evidence)
    if telling and telling.type == "Answer":
        return failure.raised(f"\nIts log: {log}"), failure
    return failure.raised(f"{ended}: {str(telling or 'it left no word of why')[:300]}\nIts log: {log}"), failure


def _telling(evidence: Evidence) -> Link | None:
    """The exception to quote: the first that names a file or carries a number, else the last one."""
    return next((link for link in evidence.links if link.file or link.number or link.status), evidence.last)
