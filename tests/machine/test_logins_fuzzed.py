"""Pastes that nobody wrote: cut, joined and mixed. Each is a login that ssh reads the same, or a refusal that repeats nothing."""

from __future__ import annotations

import shlex
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from login_pastes import OTHERS, REFUSED, SAME, TWO, as_ssh_reads_it, everything_said

from labkit.common.errors import SettingError
from labkit.machine.logins import Login, read_login
from labkit.machine.tunnels import tunnel

SECRET = "Zq7xKw"
KEPT = {"-p", "-i", "-J", "-o"}
PIECES = [
    *("ssh ", "-p ", "46457", "root@", "host.example", "-o ", "ProxyCommand=x", "\n", "密码：", '"', "'", "`", "\\", "|", ";", "&&"),
    *("$(id)", "-i ", "C:\\Users\\me\\k", "%USERPROFILE%\\", "$env:USERPROFILE\\", "https://", "ssh://", "sftp://", "Host ", "HostName "),
    *("User ", "Port ", "Match ", "Host *\n", "{", "}", '"host": ', "主机：", "端口 ", ",", "[", "]", "::1", "%eth0", "-J ", "@", ":", " "),
    *("\t", "\u200b", "\u2014", "\u201c", "<", ">", "(", ")", "#", "=", "-", "ssh-remote+", "7b22", "*", "> ", "1. ", "password "),
    *("\x1b[0m", "\ufdfa", "-4", "-L ", "8080", "xxx", "\\n", "\\u0040", "&nbsp;", "。", "，"),
]
KNOWN = [*SAME, *TWO, *(paste for paste, _ in OTHERS), *(paste for paste, _ in REFUSED if len(paste) < 500)]


@st.composite
def pastes(draw: st.DrawFn) -> str:
    """A known paste with a piece cut out and something put in, pieces in a row, or any text; the secret somewhere in it."""
    pieces = st.lists(st.sampled_from(PIECES), max_size=20).map("".join)
    kind = draw(st.sampled_from(["known", "pieces", "text"]))
    text = draw({"known": st.sampled_from(KNOWN), "pieces": pieces, "text": st.text(max_size=150)}[kind])
    if kind == "known":
        start, length = draw(st.integers(0, len(text))), draw(st.integers(0, 12))
        text = text[:start] + draw(st.one_of(st.just(""), pieces, st.text(max_size=5))) + text[start + length :]
    place = draw(st.integers(0, len(text)))
    return text[:place] + draw(st.sampled_from(["", SECRET])) + text[place:]


@settings(max_examples=150, deadline=None)
@given(pastes())
def test_a_paste_is_a_sound_login_or_a_refusal_that_repeats_nothing(paste: str) -> None:
    try:
        login = read_login(paste)
    except SettingError as error:
        assert error.fix and all(SECRET not in text for text in everything_said(error))
        return
    found = tunnel(paste)
    assert shlex.split(found.command) == found.words and "\n" not in found.command + found.powershell
    assert set(login.options[::2]) <= KEPT and not any(word.startswith("-") for word in login.options[1::2])
    assert not any(sign in found.config for sign in ("$(", "`", ";", "|"))
    assert len(found.config.splitlines()) == len([row for row in found.config.splitlines() if row.strip()])


@pytest.mark.skipif(not shutil.which("ssh"), reason="needs ssh (apt-get install -y openssh-client)")
@settings(max_examples=30, deadline=None)
@given(pastes().map(lambda paste: read_or_none(paste)).filter(bool))
def test_ssh_reads_it_the_same(login: Login) -> None:
    told = as_ssh_reads_it(login)
    assert told["hostname"].lower() == login.host.lower()
    assert login.port in (0, int(told["port"])) and login.user in ("", told["user"])
    assert not {"proxycommand", "localcommand", "remotecommand", "pkcs11provider", "localforward", "dynamicforward"} & told.keys()


def read_or_none(paste: str) -> Login | None:
    try:
        return read_login(paste)
    except SettingError:
        return None
