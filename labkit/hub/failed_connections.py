"""What kept a connection to a hub from being made, or ended it: proxy, certificate, name, refusal, time-out, a body cut short.

Covers: one verdict with cause and fix, from exceptions of the standard library, requests, urllib3 and httpx. Does not cover: answers of
a hub, disks (`failures`).
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from dataclasses import dataclass

from .evidence import Evidence, Link

ANSWERS_OF_PROXIES = (
    "Write them into the address (http://NAME:PASSWORD@HOST:PORT, special signs as %40), or go without: download(..., proxy=False)."
)
AGAIN = "What arrived is kept: run the same cell again."
SWITCH = "Switch the proxy off or on (proxy=False, proxy=True)."
TLS_CODES = {
    10: ("its certificate has expired", "See that this machine's clock is right (date)."),
    9: ("its certificate is not valid yet", "See that this machine's clock is right (date)."),
    18: ("its certificate is signed by itself", "Something on the way (proxy, login page of the network) answers in its place."),
    19: (
        "somebody unknown signed its certificate",
        "Something on the way (company proxy, login page of the network) answers in its place.",
    ),
    20: ("nobody known here signed its certificate", "Something on the way answers in its place, or certificates are missing here."),
    62: ("its certificate is for another host", "Something on the way (proxy, login page of the network) answers in its place."),
    64: ("its certificate is for another address", "Something on the way (proxy, login page of the network) answers in its place."),
}
"""OpenSSL's X509_V_ERR_* in words. (https://docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error/)"""
TLS_WORDS = (
    (r"(?i)expired", 10),
    (r"(?i)not yet valid", 9),
    (r"(?i)hostname|doesn't match|no alternative certificate subject|IP address mismatch", 62),
    (r"(?i)self[- ]signed certificate in", 19),
    (r"(?i)self[- ]signed", 18),
    (r"(?i)unable to get local issuer|unknown authority|issuer is not recognized|certificate verif", 20),
)


@dataclass(frozen=True)
class Broken:
    """`cause` has {host} in it. `elsewhere`: whether another source could help."""

    kind: str
    cause: str
    fix: str
    host: str = ""
    again: bool = True
    elsewhere: bool = True


def connection(evidence: Evidence, proxy: str) -> Broken | None:
    """What broke, or None for evidence of something else. `proxy` is the address that requests go through, "" for none."""
    links = evidence.links
    host = next((link.host for link in links if link.host), "")
    for found in (_proxy(links, proxy), _tls(links), _name(links, proxy), _refused(links, proxy), _late(links), _cut(links)):
        if found:
            return Broken(found.kind, found.cause, found.fix, found.host or host, found.again, found.elsewhere)
    return None


def _proxy(links: Iterable[Link], proxy: str) -> Broken | None:
    for link in links:
        tunnel = re.search(
            r"(?i)tunnel connection failed: (\d{3})|CONNECT tunnel failed, response (\d{3})|HTTP code (\d{3}) from proxy", link.words
        )
        if tunnel or link.type == "ProxyError":
            status = next((group for group in tunnel.groups() if group), "") if tunnel else ""
            status = status or next(iter(re.findall(r"\b(407|403|502|503|504)\b", link.words)), "")
            if status == "407":
                return Broken(
                    "proxy", f"The proxy {proxy or 'that is set'} wants a name and a password (HTTP 407).", ANSWERS_OF_PROXIES, again=False
                )
            refused = f" (HTTP {status})" if status else ""
            cause = f"The proxy {proxy or 'that is set'} does not lead to {{host}}{refused}."
            fix = "See that it runs and what it permits (http_proxy, https_proxy, ALL_PROXY), or go without: download(..., proxy=False)."
            return Broken("proxy", cause, fix, again=False)
    return None


def _tls(links: Iterable[Link]) -> Broken | None:
    verified = next((link for link in links if link.tls or "SSLCertVerification" in link.type), None)
    if verified is None:
        verified = next((link for link in links if re.search(r"(?i)certificate[_ ]verify[_ ]failed", link.words)), None)
    if verified:
        code = verified.tls or next((code for words, code in TLS_WORDS if re.search(words, verified.words)), 0)
        what, why = TLS_CODES.get(code, ("its certificate cannot be trusted", "Something on the way answers in its place."))
        cause = f"The encrypted connection to the hub failed: {{host}} cannot prove who it is, {what}."
        return Broken("tls", cause, f"{why} {SWITCH}", again=False)
    other = next((link for link in links if link.type in ("SSLError", "SSLEOFError", "SSLZeroReturnError")), None)
    if other is None:
        return None
    plain = re.search(
        r"(?i)wrong[_ ]version[_ ]number|does not look like a TLS handshake|packet length too long|record layer failure|http_request",
        other.words,
    )
    why = (
        "it does not speak TLS at this address: http:// may be right, or a proxy for http is used for https"
        if plain
        else "it was broken off"
    )
    return Broken("tls", f"The encrypted connection to the hub failed: {{host}}: {why}.", SWITCH, again=not plain)


def _name(links: Iterable[Link], proxy: str) -> Broken | None:
    if not any(link.lookup for link in links):
        return None
    if proxy or any("proxy" in link.words.lower() and link.lookup for link in links):  # behind a proxy only its own name is looked up
        return Broken(
            "proxy",
            f"The proxy's name cannot be looked up{': ' + proxy if proxy else ''}.",
            "Correct http_proxy, https_proxy or ALL_PROXY.",
            again=False,
        )
    cause = "{host} cannot be reached: its name cannot be looked up (DNS)."
    fix = (
        "See that this machine has internet at all (ping, /etc/resolv.conf) and that the name is right (HF_ENDPOINT, MODELSCOPE_ENDPOINT)."
    )
    return Broken("dns", cause, f"{fix} If only a proxy leads out: download(..., proxy=True).")


UNREACHED = {
    errno.ECONNREFUSED: "nobody listens there (connection refused)",
    errno.EHOSTUNREACH: "there is no way to it (no route to host)",
    errno.ENETUNREACH: "this machine has no network to it",
    errno.EACCES: "a firewall of this machine does not permit it",
    errno.EPERM: "a firewall of this machine does not permit it",
    errno.EADDRNOTAVAIL: "this machine has no address to ask from",
}


def _refused(links: Iterable[Link], proxy: str) -> Broken | None:
    number = next((link.number for link in links if link.number in UNREACHED), 0)
    if not number:
        return None
    through = f" through the proxy {proxy}" if proxy else ""
    fix = "See that the address is right and this machine has internet. On AutoDL `source /etc/network_turbo` helps Hugging Face."
    fix = (
        f"See that the proxy runs, or go without: download(..., proxy=False). {fix}"
        if proxy
        else f"{fix} If only a proxy leads out: download(..., proxy=True)."
    )
    return Broken("unreachable", f"{{host}} cannot be reached{through}: {UNREACHED[number]}.", fix)


def _late(links: Iterable[Link]) -> Broken | None:
    late = next(
        (link for link in links if re.search(r"Timeout", link.type) or link.number == errno.ETIMEDOUT or "timed out" in link.words), None
    )
    if late is None:
        return None
    if re.search(r"(?i)connect", late.type):
        return Broken("timeout", "{host} cannot be reached: it did not answer in time.", f"{AGAIN} {SWITCH}")
    cause = "The connection to the hub broke, and again when tried anew: {host} fell silent in the middle (time-out)."
    return Broken("timeout", cause, f"{AGAIN} {SWITCH}")


def _cut(links: Iterable[Link]) -> Broken | None:
    types = (
        r"ConnectionResetError|ConnectionAborted|BrokenPipe|RemoteProtocolError|IncompleteRead|IncompleteBody|ProtocolError|ChunkedEncoding"
        r"|RemoteDisconnected|ReadError|WriteError|ConnectError|ConnectionError|NetworkError|BadStatusLine|ContentDecodingError|DecodingError"
    )
    cut = next((link for link in links if re.search(types, link.type) or link.number in (errno.ECONNRESET, errno.EPIPE)), None)
    if cut is None and not any(
        re.search(r"(?i)connection aborted|connection broken|peer closed|disconnected|early EOF", link.words) for link in links
    ):
        return None
    how = "reset by the other side" if any(link.number == errno.ECONNRESET for link in links) else "ended in the middle of a file"
    if any(re.search(r"Decod", link.type) for link in links):
        how = "packed (Content-Encoding) in a way that cannot be unpacked"
    return Broken("broken", f"The connection to the hub broke, and again when tried anew: {{host}}, {how}.", AGAIN)
