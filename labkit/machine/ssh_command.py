r"""A command line of ssh, taken apart as ssh takes it, whichever shell it was written for.

A backslash is a blank's escape in the POSIX shells and a separator in Windows paths; no shell needs one before a letter, so before a
letter, and in a word that begins as a Windows path does, it is kept. Used by `logins`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ..common.errors import SettingError
from .key_paths import HOME
from .login_parts import COPY_AGAIN, EXAMPLE, TOP_LEVEL, Login, read_place
from .ssh_options import SWITCHES, WITH_VALUE, LoginSettings

WINDOWS = re.compile(r"[A-Za-z]:\\|\.{1,2}\\|\\\\\w|~\\|%\w+%|\$\{?env:|\$HOME\\", re.IGNORECASE)
"""How a path of Windows begins."""
ASCII = "".join(map(chr, range(128)))
ENDS = ";|&<>"
"""What ends a command in every shell."""
SENTENCE = (
    "a after and as at before by for from here if in into is now on or please port that the then to use using via we when where which "
    "with you your copy copied launch connect"
)
PROSE = frozenset(SENTENCE.split())
PASSWORD_NAMES = ("pw", "pwd", "pass", "passwd", "mm")
PASSWORD_LIKE = re.compile(r"(?=.*\d)(?=.*[A-Za-z])\S{8,64}|(?=.*[A-Z])(?=.*[a-z])\S{8,64}|\S*[!@#$%^*+=?]\S*|\d{6,}")
LOGIN_LIKE = re.compile(rf"(?i)[\w.+-]+@(?:(?:[\w-]+\.)+{TOP_LEVEL}|(?:\d{{1,3}}\.){{3}}\d{{1,3}})(?::\d+)?")
PORT_BEHIND = re.compile(r"(?i)(?:(?<![\w-])-p|\bport|端\s?口)(?:\s|[:=#]|号|是|为|is\b)*(\d{1,5})(?!\d)")


@dataclass
class Command:
    """The words of one command; the text behind its end, with the sign that ended it; the text from another `ssh` among the words on."""

    words: list[str] = field(default_factory=list)
    behind: str = ""
    another: str = ""


def split(text: str) -> Command:
    """`text` as words, up to the first sign that ends a command in every shell, or to the word `ssh`."""
    found, word, quote, windows, begun = Command(), "", "", False, False
    place = start = 0
    while place < len(text):
        sign = text[place]
        if not quote and not windows and (word in ("", "-i") or word.endswith("=")):
            windows = bool(WINDOWS.match(text, place))
        after = text[place + 1 : place + 2]
        if quote:
            if sign == quote:
                quote = ""
            elif sign == "\\" and quote == '"' and after in ('"', "\\") and not (windows and not _doubled(text, place, word)):
                word, place = word + after, place + 1
            else:
                word += sign
        elif sign in " \t":
            if begun and re.fullmatch(r"(?i)ssh(?:\.exe)?", word):
                found.another = text[start:]
                return found
            if begun:
                found.words.append(word)
            word, windows, begun, start = "", False, False, place + 1
        elif sign in "\"'" and (text.find(sign, place + 1) > 0 or not word):
            quote, begun = sign, True
            windows = windows or bool(WINDOWS.match(text, place + 1))
        elif sign in ENDS and not windows:
            found.behind = text[place:]
            break
        elif sign == "\\" and after and not windows and _escapes(word, after):
            word, place, begun = word + after, place + 1, True
        elif sign == "\\" and windows and _doubled(text, place, word):
            word, place = word + sign, place + 1
        else:
            word, begun = word + sign, True
        place += 1
    if quote:
        raise SettingError("The login line has a quote that does not end.", f"Check the quotes; it looks like: {EXAMPLE}")
    found.words += [word] if begun else []
    return found


def _escapes(word: str, after: str) -> bool:
    """Whether the backslash between them is the shell's own: not before a letter, unless slashes show a path of another system."""
    return not (after.isalnum() or after in "._$%") or "/" in word


def _doubled(text: str, place: int, word: str) -> bool:
    r"""Whether a Windows path has its backslashes doubled, as JSON and C write them: C:\\Users. A share begins with two itself."""
    return text[place + 1 : place + 2] == "\\" and bool(word.lstrip("\\")) and "\\" not in text[place + 2 : place + 3]


def read_command(command: Command) -> Login:
    """The login that the words behind `ssh` name. Raises `SettingError` for what is no login, or more than one."""
    if re.match(r"<[^<>|&;]{1,40}>", command.behind):
        raise SettingError("The login line is a template, with words in angle brackets.", COPY_AGAIN)
    settings, place, rest = _read_options(command.words)
    if "-i" in settings.kept and any("@" in word for word in rest) and re.search(r"[\\/]", place):
        raise _blank_in_path()
    if not place:
        raise SettingError("The login line names no machine.", f"It looks like: {EXAMPLE}")
    host, user, port = read_place(place)
    if port and settings.port and port != settings.port:
        raise SettingError("The login line names two ports.", f"Keep the right one: {EXAMPLE}")
    if user and settings.user and user != settings.user:
        raise SettingError("The login line names two users.", f"Keep the right one: {EXAMPLE}")
    if rest and command.words[-len(rest) - 1].endswith((".", "!")) and re.match(r"[A-Z][a-z]*\W*$", rest[0]):
        rest = []
    told = _drop(rest, command.behind) or port_in(place.lstrip(ASCII))
    return Login(settings.host or host, settings.user or user, settings.port or port or told, tuple(settings.kept))


def _read_options(words: list[str]) -> tuple[LoginSettings, str, list[str]]:
    """What the options say, the word for the machine, and the words behind it; ssh takes options on both sides of the machine."""
    settings, place, rest = LoginSettings(), "", list(words)
    while rest:
        word = rest.pop(0)
        if word == "--" and rest and not place:
            place = rest.pop(0)
        elif word in ("-", "--"):
            continue
        elif word.startswith("--"):
            raise SettingError("The login line has an option with two dashes, and ssh has no option that begins so.", COPY_AGAIN)
        elif word.startswith("-"):
            _read_letters(word[1:], rest, settings)
        elif place:
            return settings, place, [word, *rest]
        else:
            place = word
    return settings, place, []


def _read_letters(letters: str, rest: list[str], settings: LoginSettings) -> None:
    """One word of options, -CNgp 46457 or -p46457; takes the value from `rest` if it is not in the word."""
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter in WITH_VALUE:
            value, letters = letters or (rest.pop(0) if rest else ""), ""
            if not value.strip(" \"'"):
                raise SettingError(f"The option -{letter} has no value.", f"It looks like: {EXAMPLE}")
            settings.take_letter(letter, value)
        elif letter in SWITCHES:
            settings.take_letter(letter, "")
        else:
            raise SettingError("The login line has a letter behind a dash for which ssh has no option.", COPY_AGAIN)


def _drop(words: list[str], behind: str) -> int:
    """Drop what a sentence, a table or a password leaves behind the machine; the port, if it is told there, else 0. Refuses a command."""
    words, more = [word for word in words if word.strip()], behind.lstrip(ENDS).split()
    text = " ".join([*words, *more])
    if re.match(r"[<>]\s*[\w./~$&(-]", behind) or (words and words[0].startswith("`") and len(text) > 1):
        raise _too_much(1, " ".join(words))
    alone = words + more if len(words) + len(more) == 1 else []
    number = re.fullmatch(r"([0-9]{1,5})(?:[^\x00-\x7f].*|[,;.)]*)", alone[0]) if alone else None
    if number:
        return int(number.group(1)) if 1 <= int(number.group(1)) <= 65535 else 0
    if words and not _is_no_command(words[0], bool(alone)) and not (len(words) == 2 and words[0].lower() in PASSWORD_NAMES):
        raise _too_much(len(words) + 1, text)
    if more and not _is_no_command(more[0], bool(alone)):
        raise _too_much(1, " ".join(words))
    return port_in(text)


def port_in(text: str) -> int:
    """The port that `text` tells beside the machine, 0 if none."""
    told = PORT_BEHIND.search(text)
    return int(told.group(1)) if told and 1 <= int(told.group(1)) <= 65535 else 0


def _is_no_command(word: str, alone: bool) -> bool:
    foreign_or_sign = not word[0].isascii() or (word[0] in "#(,|/=*.:?![{}])\"'`" and not re.match(r"[./`]+\w", word))
    return (
        foreign_or_sign
        or word.strip("\"'`.,:;)").lower() in PROSE
        or (alone and bool(PASSWORD_LIKE.fullmatch(word)) and word[0] not in "$`" and not LOGIN_LIKE.fullmatch(word))
    )


def _blank_in_path() -> SettingError:
    return SettingError("A path in the login line has a blank.", 'Put the path into quotes: ssh -i "C:\\Users\\NAME\\my keys\\id" ...')


def _too_much(count: int, text: str) -> SettingError:
    if re.search(r"\\|\.(?:pem|key|ppk)\b", text) or HOME.search(text):
        return _blank_in_path()
    if count == 1:
        return SettingError("Behind the login stands a second command.", f"Give only the login: {EXAMPLE}")
    return SettingError(
        f"The login line has {count} words that could be the machine, or a command behind it.", f"Give only the login: {EXAMPLE}"
    )
