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


HOSTS = st.one_of(
    st.from_regex(r"[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,5})?\.[a-z]{3,9}\.(com|cn|ai|net)", fullmatch=True),
    st.ip_addresses(v=4).map(str),
)
LOGINS = st.builds(Login, HOSTS, st.sampled_from(["root", "ubuntu", "ec2-user", "me.you", "abc-64411"]), st.integers(1, 65535))
FORMS = [
    *("ssh -p {port} {user}@{host}", "ssh {user}@{host} -p {port}", "ssh -p{port} -l {user} {host}", "ssh.exe {user}@{host} -p {port}"),
    *("ssh -o Port={port} {user}@{host}", "ssh://{user}@{host}:{port}", "{user}@{host} -p {port}", "{user}@{host}:{port}"),
    *("ssh {user}@{host}:{port}", "ssh {user}@{host} {port}", "Host g\n  HostName {host}\n  User {user}\n  Port {port}"),
    *("主机：{host}\n端口：{port}\n用户名：{user}", '{{"host": "{host}", "port": {port}, "user": "{user}"}}'),
    *("ssh -CNg -L 6006:127.0.0.1:6006 {user}@{host} -p {port}", "sftp://{user}:aB3xyz@{host}:{port}/root"),
]
BEFORE = [
    "",
    "$ ",
    "登录指令：",
    "SSH command: ",
    "PS C:\\Users\\me> ",
    "1. ",
    "> ",
    "\u200b",
    "你好，这是我的机器\n",
    "密码：aB3/xyz==\n",
    "```bash\n",
    "\u2022 ",
]
BEHIND = [
    "",
    " ",
    "。",
    "\n密码：aB3/xyz==",
    "\naB3xyzQW12",
    "\n```",
    "\r\n",
    "\nPassword: aB3/xyz==",
    "\n\n谢谢",
    "\u200b",
    "\nWelcome to Ubuntu 22.04.4 LTS",
]
WIDE = {ord(sign): ord(sign) + 0xFEE0 for sign in "0123456789@.:-"}


@settings(max_examples=200, deadline=None)
@given(LOGINS, st.sampled_from(FORMS), st.sampled_from(BEFORE), st.sampled_from(BEHIND), st.sampled_from(["", "wide", "dash"]))
def test_a_login_comes_back_from_every_form(login: Login, form: str, before: str, behind: str, how: str) -> None:
    line = form.format(host=login.host, user=login.user, port=login.port)
    if "://" not in form:
        line = line.translate({"wide": WIDE, "dash": {ord("-"): "\u2013"}, "": {}}[how])
    assert read_login(before + line + behind) == login


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
