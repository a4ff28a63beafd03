"""A login line as people paste it: what ssh would make of it, checked word by word.

Covers: AutoDL's line, an alias, ssh:// addresses; options in any order, as ssh's own getopt takes them. Does not cover: passwords (one
in the pasted text is dropped unread), the commands made from it (`tunnels`). Used by notebook 05 and `./lab tunnel`.
"""

from __future__ import annotations

import getopt
import ipaddress
import re
import shlex
from dataclasses import dataclass

from ..common.errors import SettingError

EXAMPLE = "ssh -p 46457 root@connect.nmb2.seetacloud.com"
SWITCHES, WITH_VALUE = "46AaCfGgKkMNnqsTtVvXxYy", "BbcDEeFIiJLlmOoPpQRSWw"
"""ssh's options without and with a value (ssh(1) of OpenSSH 9)."""
DROPPED = frozenset("LRD")
"""Forwardings of the pasted line: the ports asked for here take their place."""
NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")
USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]*")
RUNS_COMMANDS = re.compile(r"(?i)(proxy|local|remote|knownhosts)command|permitlocalcommand")
SPACES = str.maketrans(dict.fromkeys("\u00a0\u3000\u200b\ufeff\t", " "))
"""What copying from a web page or a chat window leaves in place of a blank."""


@dataclass(frozen=True)
class Login:
    """Where ssh logs in. `user` "" and `port` 0 mean that the line did not say: ssh's own configuration decides.

    `options` are further words for ssh, in order: an identity file, a jump host, -o settings.
    """

    host: str
    user: str = ""
    port: int = 0
    options: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """The login as words for ssh, without `ssh` itself."""
        port = ["-p", str(self.port)] if self.port else []
        return [*port, *self.options, f"{self.user}@{self.host}" if self.user else self.host]


def read_login(text: str) -> Login:
    """The login in `text`: AutoDL's line, in any order of options, with or without the password below it, or an alias.

    Of several lines the first with `ssh` counts, else the first that is not empty; nothing else is kept. `ssh://user@host:port`
    works too. Raises `SettingError`, naming the word that does not fit.
    """
    words = _words(text)
    if not words:
        raise SettingError("The login line is empty.", f"Copy it from AutoDL's page (登录指令); it looks like: {EXAMPLE}")
    options, places = _sort(words)
    if not places:
        raise SettingError("The login line names no machine.", f"It looks like: {EXAMPLE}")
    if len(places) > 1:
        raise SettingError(
            f"The login line has {len(places)} words that could be the machine, or a command behind it.",
            f"Give only the login: {EXAMPLE}",
        )
    return _login(places[0], options)


def _words(text: str) -> list[str]:
    lines = [line.translate(SPACES).strip().strip("`") for line in text.splitlines()]
    lines = [line for line in lines if line]
    line = next((line for line in lines if re.search(r"(?i)(^|\s)ssh(\.exe)?\s|ssh://", line)), lines[0] if lines else "")
    start = re.search(r"(?i)(^|\s)ssh(\.exe)?(\s+|$)", line)
    line = line[start.end() :] if start else line
    try:
        return shlex.split(line)
    except ValueError as error:
        raise SettingError(f"The login line cannot be read: {error}.", f"Check the quotes; it looks like: {EXAMPLE}") from None


def _sort(words: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """(letters of options with their values, other words), taken as ssh does: options up to a word, and again behind it."""
    options, places, rest = [], [], words
    while rest:
        try:
            taken, rest = getopt.getopt(rest, SWITCHES + "".join(f"{letter}:" for letter in WITH_VALUE))
        except getopt.GetoptError as error:
            raise _no_option(error.opt) from None
        options += [(flag[1], value) for flag, value in taken if flag[1] in WITH_VALUE]
        places += rest[:1]
        rest = rest[1:]
    empty = next((letter for letter, value in options if not value), "")
    if empty:
        raise _no_option(empty)
    return options, places


def _no_option(name: str) -> SettingError:
    if name in WITH_VALUE:
        return SettingError(f"The option -{name} has no value.", f"It looks like: {EXAMPLE}")
    dashes = "-" if len(name) == 1 else "--"
    return SettingError(f"ssh has no option {dashes}{name}.", f"Copy the login line again; it looks like: {EXAMPLE}")


def _login(place: str, options: list[tuple[str, str]]) -> Login:
    host, user, port = _place(place)
    kept: list[str] = []
    for letter, value in options:
        name, _, setting = value.replace("=", " ", 1).strip().partition(" ") if letter == "o" else ("", "", "")
        if letter == "p" or name.lower() == "port":
            port = port or _port(setting.strip() or value)
        elif letter == "l" or name.lower() == "user":
            user = user or _user(setting.strip() or value)
        elif letter == "o" and RUNS_COMMANDS.fullmatch(name):
            raise SettingError(f"The option {name} makes ssh run a program.", "Put it in your own ~/.ssh/config and give the alias here.")
        elif letter == "o" and name.lower() == "localforward":
            continue
        elif letter in "iJFo":
            kept += [f"-{letter}", value]
        elif letter not in DROPPED:
            raise SettingError(f"The option -{letter} is not for a login.", f"Leave it out; the line looks like: {EXAMPLE}")
    return Login(host, user, port, tuple(kept))


def _place(word: str) -> tuple[str, str, int]:
    """(host, user, port) of user@host, an IPv6 address with or without brackets, an alias, or ssh://user@host:port."""
    bare, uri = (word[6:].rstrip("/"), True) if word.lower().startswith("ssh://") else (word, False)
    user, at, host = bare.rpartition("@")
    number = ""
    bracketed = re.fullmatch(r"\[([^\]]+)\](?::(\d+))?", host)
    if bracketed:
        host, number = bracketed.group(1), bracketed.group(2) or ""
    elif host.count(":") == 1:
        host, _, number = host.partition(":")
    if number and not uri:
        raise SettingError(f"{word!r} has a port behind a colon; ssh wants it as an option.", f"ssh -p {number} {user + at}{host}")
    return _host(host), _user(user) if at else "", _port(number) if number else 0


def _host(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not NAME.fullmatch(host) or re.fullmatch(r"[\d.]+", host):
        raise SettingError(f"{host!r} is no name and no address of a machine.", f"Copy the login line again; it looks like: {EXAMPLE}")
    return host


def _user(user: str) -> str:
    if not USER.fullmatch(user):
        raise SettingError(f"{user!r} is no user name.", f"On AutoDL it is root: {EXAMPLE}")
    return user


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise SettingError(f"{text!r} is no port.", f"The number behind -p goes from 1 to 65535: {EXAMPLE}")
    return int(text)
