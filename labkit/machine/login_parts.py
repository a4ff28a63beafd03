"""What a login consists of, each part checked: machine, user, port.

Whatever these functions return is safe in a command line of any shell. What they refuse is described and never repeated: a password
is often among the pasted words. Leaves to the caller where the words come from. Raises `SettingError`. Used by `logins` and below it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

from ..common.errors import SettingError
from .key_paths import for_command

EXAMPLE = "ssh -p 46457 root@connect.nmb2.seetacloud.com"
COPY_AGAIN = f"Copy the login line again; it looks like: {EXAMPLE}"
NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")
TEMPLATE = re.compile(
    r"(?:[A-Z]+_)*(?:HOST|HOSTNAME|IP|SERVER|INSTANCE|ADDRESS|DOMAIN)|(?i:your|the)[-_.].*|(?i:x{2,}|x\.x\.x\.x)(?:[.-].*)?"
)
"""What stands for a machine in instructions."""
USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@#-]{0,127}")
TOP_LEVEL = r"(?:com|cn|net|org|io|ai|cloud|dev|edu|gov|info|me|co|top|xyz|tech|app|run|sh|de|jp|hk|tw|uk|us|eu|ru|fr|sg|kr)"
"""The last part of a machine's name, as far as it is used to see that the name is whole."""
CUT_OFF = re.compile(r"\w\.{2,}\W*$")
WHOLE = re.compile(rf"(?i)(?:\.{TOP_LEVEL}|(?:\d{{1,3}}\.){{3}}\d{{1,3}})\.{{2,}}\W*$")
OPENING, CLOSING = "([{<'\"`", ")}>'\"`,;.!?"
"""What stands around a word in a sentence. A closing bracket is looked at by itself: it may end an IPv6 address."""


@dataclass(frozen=True)
class Login:
    """Where ssh logs in. `user` "" and `port` 0 mean that the line did not say: ssh's own configuration decides.

    `options` are pairs of further words for ssh, in order: -i, -J or -o and its value. The path behind -i is kept as it was written.
    """

    host: str
    user: str = ""
    port: int = 0
    options: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """The login as words for ssh, without `ssh` itself."""
        return self.written(for_command, str)

    def written(self, path: Callable[[str], str], word: Callable[[str], str]) -> list[str]:
        """The same with each key's path as `path` writes it, and every other word as `word` does."""
        port = ["-p", str(self.port)] if self.port else []
        befores = ("", *self.options)
        options = [path(value) if before == "-i" else word(value) for before, value in zip(befores, self.options, strict=False)]
        return [*port, *options, word(f"{self.user}@{self.host}" if self.user else self.host)]


def read_host(text: str) -> str:
    """The name or address of a machine."""
    address = _address(text)
    if address:
        return address
    if TEMPLATE.fullmatch(text):
        raise SettingError("The login line is a template: in place of the machine stands a word for it.", COPY_AGAIN)
    if not NAME.fullmatch(text) or re.fullmatch(r"[\d.]+", text) or ".." in text:
        raise SettingError(f"What stands for the machine is no name and no address{_foreign(text)}.", COPY_AGAIN)
    return text


def _foreign(text: str) -> str:
    """What to add where letters are not Latin ones, which cannot always be seen."""
    return "" if text.isascii() else ": it has letters of another script, or ones that only look like Latin letters"


def is_address(text: str) -> bool:
    """Whether `text` is an IPv4 or IPv6 address."""
    return bool(_address(text))


def _address(text: str) -> str:
    """`text` as an IP address, "" if it is none. An IPv6 zone is a name of a network device, and checked as a name."""
    bare, _, zone = text.partition("%")
    if "%" in text and not (":" in bare and NAME.fullmatch(zone)):
        return ""
    try:
        return str(ipaddress.ip_address(bare)) + (f"%{zone}" if zone else "")
    except ValueError:
        return ""


def read_user(text: str) -> str:
    """The name to log in with; a password behind a colon is dropped, %40 is an @."""
    name = unquote(text).partition(":")[0] if "%" in text else text.partition(":")[0]
    if not USER.fullmatch(name):
        raise SettingError(f"What stands in front of the @ is no user name{_foreign(name)}.", f"On AutoDL it is root: {EXAMPLE}")
    return name


def read_port(text: str) -> int:
    """A port; what a sentence puts right behind it, or another script, is none of it."""
    found = re.match(r"[:=\"'\[(]*([0-9]{1,6})[()\[\]{}<>\"'`,;.!?:]*(?=$|[^\x00-\x7f])", text)
    if not found or not 1 <= int(found.group(1)) <= 65535:
        raise SettingError("What stands for the port is no port.", f"The number behind -p goes from 1 to 65535: {EXAMPLE}")
    return int(found.group(1))


def read_place(word: str) -> tuple[str, str, int]:
    """(host, user, port) of user@host, host:port, an IPv6 address with or without brackets, an alias, or ssh://user@host:port."""
    if CUT_OFF.search(word) and not WHOLE.search(word):
        raise SettingError("The machine's name ends in dots: it was cut off where it was shown.", COPY_AGAIN)
    bare = _unwrapped(word)
    uri = re.match(r"(?i)(?:ssh|sftp|scp)://", bare)
    if not uri and re.match(r"(?i)[a-z][a-z0-9+.-]*://", bare):
        raise _a_path(False)
    if uri:
        bare = bare[uri.end() :].partition("/")[0]
    bare = bare if "@" in bare else re.sub(r"%40", "@", bare)
    user, at, host = bare.rpartition("@")
    user = user.partition(";")[0] if uri else user
    host, number = _host_and_port(host.removesuffix("/"))
    if not uri and ("/" in host or (host.count(":") == 1)):
        raise _a_path(bool(at))
    return read_host(host), read_user(user) if at else "", read_port(number) if number else 0


def _a_path(of_a_login: bool) -> SettingError:
    if of_a_login:
        return SettingError(
            "Behind the machine stands a path, as scp and git write it.", f"Give the line for ssh, which has no path: {EXAMPLE}"
        )
    return SettingError("This is a web address, not a login.", f"The login line begins with ssh: {EXAMPLE}")


def _host_and_port(host: str) -> tuple[str, str]:
    bracketed = re.fullmatch(r"\[([^\[\]]+)\](?::(\d+))?:?", host)
    if bracketed:
        return bracketed.group(1), bracketed.group(2) or ""
    glued = re.fullmatch(r"([^:]*):(\d*)", host)
    return (glued.group(1), glued.group(2)) if glued else (host, "")


def _unwrapped(word: str) -> str:
    """`word` without what a sentence puts around it, or right behind it in another script."""
    if re.match(rf"(?i)[^,]+\.(?:{TOP_LEVEL}|\d{{1,3}}),", word):
        word = word.partition(",")[0]
    foreign = re.search(r"[^\x00-\x7f]", word)
    if foreign:
        ours, theirs = word[: foreign.start()].rstrip(OPENING + CLOSING + "]:"), word[foreign.start() :]
        whole = re.search(rf"(?i)\.(?:{TOP_LEVEL}|\d{{1,3}})(?::\d+)?$", ours) and re.match(r"[\u2e80-\u9fff\uac00-\ud7af]", theirs)
        if whole or not theirs[0].isalnum() or re.match("密码|口令|端口|用户|然后|就|即", theirs):
            word = ours
    word = re.sub(r"^([^()$]*[\w\]])\([^()]*\)?$", r"\1", word)
    word = word.lstrip(OPENING if not re.match(r"\[[\da-fA-F:]+[:%]", word) else OPENING.replace("[", "")).rstrip(CLOSING)
    while word.endswith("]") and word.count("[") < word.count("]"):
        word = word[:-1].rstrip(CLOSING)
    return word.removeprefix("[") if word.count("[") > word.count("]") else word
