"""A login as people paste it: what ssh would make of it, checked word by word.

Covers: the line of a console with what stands around it, ssh:// and WinSCP addresses, blocks of ~/.ssh/config, parts behind labels,
a login without `ssh`, an alias. Does not cover: passwords (one in the paste is dropped unread), the commands made from it
(`tunnels`). Used by notebook 05 and `./lab tunnel`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar
from urllib.parse import unquote

from ..common.errors import SettingError
from .broken_lines import LONGEST_LINE, joined
from .login_parts import EXAMPLE as EXAMPLE
from .login_parts import NAME, TOP_LEVEL, is_address, read_place
from .login_parts import Login as Login
from .pasted_text import clean, without_passwords
from .ssh_command import Command, port_in, read_command, split
from .ssh_fields import CELL, config_logins, labelled_logins
from .ssh_options import refuse_beside
from .what_was_pasted import PROMPT_OF_A_MACHINE, is_a_tools_own, is_no_login, refusal

_Given = TypeVar("_Given")
_Found = TypeVar("_Found")
BLOCK = re.compile(r"(?im)^[ \t]*Host[ \t]+([^:\n]+)$")
"""The names of a block of ~/.ssh/config."""
LONGEST = 10_000
SSH = re.compile(r"(?i)(?<![A-Za-z0-9_.@-])ssh(?:\.exe)?(?:[\"']?(?=\s|$)|(?=-[plioJ][ ]?\S))")
PATH_OF_SSH = re.compile(r"[\"'`]?(?:[A-Za-z]:|\.|/|~|\\)[^\n\"'`|;&]*[\\/]$")
ADDRESS = re.compile(r"(?i)\b(?:ssh|sftp|scp)://[^\s\"'<>|`]+")
VS_CODE = re.compile(r"(?i)ssh-remote(?:\+|%2B)([^/\s\"'<>|`]+)")
CALLERS = "sudo exec winpty nohup time env command kitten run using use with via or by cmd then type try start"
WRAPPERS = frozenset(CALLERS.split())
NOUNS = (
    "access address command client config configuration connect connection details host info key keys line link login password port "
    "server session terminal to tunnel user into using via with and or is on in"
)
NOT_AN_ALIAS = frozenset(NOUNS.split())
MACHINE_WORD = (
    r"(?:my)?(?:autodl|box|cloud|cluster|desktop|devbox|dev|ecs|gpu|gpubox|host|lab|laptop|login|machine|node|remote|server|ubuntu|vm|vps|"
    r"workstation|[av]100|h[12]00|rtx|[34]090)\d{0,4}"
)
PART = r"(?:[a-z]+\d{0,4}|\d{1,4})"
ALIAS = re.compile(rf"{MACHINE_WORD}|(?={PART}(?:[-_]{PART}){{1,2}}$)(?:.*[-_])?{MACHINE_WORD}(?:[-_].*)?")
"""A word that alone is taken for an alias. Others could be a password; with `ssh` in front any name is one."""
DOMAIN = re.compile(rf"(?i)(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9])?\.)+{TOP_LEVEL}")
LABEL_IN_FRONT = re.compile(
    rf"(?i)^(?:{PROMPT_OF_A_MACHINE}\s*|[^:@\s]{{1,20}}(?: [^:@\s]{{1,20}}){{0,3}}:\s+"
    r"|(?:ssh|login|command|host|address|server):)(?=\S*@|-)"
)
LOGIN_NAME = re.compile(r"[a-z_][a-z0-9_.+%@-]*(?::\S*)?")


def read_login(text: str) -> Login:
    """The login in `text`, which may hold more around it, or in another form.

    Two different logins are not guessed between. Raises `SettingError`, which describes what was pasted and never repeats it.
    """
    if not isinstance(text, str):
        raise SettingError("The login line is not text.", f'Put it in quotes: labkit.tunnel("{EXAMPLE}")')
    if len(text) > LONGEST:
        raise SettingError("What was pasted is too long for a login line.", f"Paste only the line: {EXAMPLE}")
    whole = clean(text)
    if not whole or re.fullmatch(r"(?i)ssh(\.exe)?", whole):
        raise SettingError("The login line is empty.", f"Copy it from AutoDL's page (登录指令); it looks like: {EXAMPLE}")
    if len(whole) > LONGEST:
        raise SettingError("What was pasted is too long for a login line.", f"Paste only the line: {EXAMPLE}")
    told = without_passwords(whole)
    for read in (_by_command_or_block, labelled_logins, _by_line, _by_word):
        found, refused = _read(read, told)
        if refused:
            raise refused
        if found:
            refuse_beside(told)
            return _the_one(found)
    raise refusal(whole, told)


def _read(read: Callable[[_Given], _Found], given: _Given) -> tuple[_Found | None, SettingError | None]:
    """What `read` finds, or its refusal as a value. Raised outside an `except`, that has no other error, with the paste, behind it."""
    try:
        return read(given), None
    except SettingError as error:
        return None, SettingError(error.cause, error.fix)


def _the_one(logins: list[Login]) -> Login:
    """The login that all of `logins` are, with the options of the longest."""
    differ = [
        name
        for name, parts in (
            ("machine", {login.host.lower() for login in logins}),
            ("port", {login.port for login in logins}),
            ("user", {login.user for login in logins}),
        )
        if len(parts) > 1
    ]
    if differ:
        raise SettingError(
            f"The paste holds two different logins; they differ in the {' and the '.join(differ)}.",
            "Which one? Paste only the line of the machine that this runs on.",
        )
    return max(logins, key=lambda login: len(login.options))


def _by_command_or_block(text: str) -> list[Login]:
    """Logins of commands and of blocks of ~/.ssh/config; `ssh ALIAS` beside the block of that alias is the same login."""
    blocks = config_logins(text)
    names = [name for found in BLOCK.finditer(text) for name in found.group(1).split()] if blocks else []
    calls = "|".join(map(re.escape, names))
    return blocks + _by_command_or_address(re.sub(rf"(?im)^\W*ssh[ \t]+(?:{calls})$", "", text) if calls else text)


def _by_command_or_address(text: str) -> list[Login]:
    """Logins of commands of ssh, and of ssh:// and VS Code's addresses."""
    commands = list(_commands(text))
    said = {word for command in commands for word in command.words}
    bare = [Command([_unhexed(found.group(1))]) for found in VS_CODE.finditer(text)]
    bare += [_of_address(found, text) for found in ADDRESS.finditer(text) if found.group() not in said and not _is_labelled(found, text)]
    found, refused = [], []
    for command in [*bare, *commands]:
        one, error = _read(read_command, command)
        found += [one] if one else []
        refused += [error] if error else []
    meant = [error for error in refused if not found or "template" not in error.cause]
    if meant:
        raise meant[0]
    return found


def _is_labelled(found: re.Match[str], text: str) -> bool:
    """Whether an address stands behind a label for the machine, and user and port behind labels of their own."""
    before = text[: found.start()].rpartition("\n")[2]
    return "@" not in found.group() and before.rstrip().endswith((":", "=")) and bool(labelled_logins(text))


def _of_address(found: re.Match[str], text: str) -> Command:
    """An ssh:// address, with the options behind it."""
    rest = text[found.end() : found.end() + LONGEST_LINE].split("\n")[0]
    return Command([found.group(), *(split(rest).words if re.match(r"\s+-(?:o|[plJi][\s\d/~.]|[46]\b)", rest) else [])])


def _unhexed(name: str) -> str:
    """The machine behind ssh-remote+, which VS Code writes as it is, or as JSON in hexadecimal digits."""
    if not re.fullmatch(r"(?i)7b[0-9a-f]{8,2000}", name) or len(name) % 2:
        return unquote(name)
    try:
        told = json.loads(bytes.fromhex(name))
    except ValueError:
        return name
    host, user, port = (str(told.get(key, "")) for key in ("hostName", "user", "port"))
    return (f"{user}@" if user else "") + host + (f":{port}" if port else "")


def _commands(text: str) -> Iterator[Command]:
    """What stands behind each `ssh`, as far as it is a command."""
    for line in joined(text.split("\n"), _whole, lambda line: bool(SSH.search(line))):
        table = line.startswith("|") or (line.count("|") > 1 and "||" not in line)
        for cell in line.split("|") if table else [line]:
            yield from _commands_of(cell)


def _whole(line: str) -> Login | None:
    """The login of the command in `line`, if the line names the machine to its end."""
    found = SSH.search(line)
    rest = line[found.end() :] if found else ""
    if found and found.group()[-1] not in "\"'":
        rest, _ = _inside(line[: found.start()], rest)
    login, _ = _read(lambda words: read_command(split(words)), rest)
    if not login or login.user or not rest.lstrip().startswith("-"):
        return login
    ends = re.search(rf"{re.escape(login.host)}(?::\d+)?(?:\s+-[A-Za-z46]\S*(?:\s+[^\s-]\S*)?)*\s*$", rest)
    return login if ends and _is_machine(login.host) else None


def _commands_of(line: str) -> Iterator[Command]:
    while found := SSH.search(line):
        before, rest = line[: found.start()], line[found.end() :]
        rest, behind = _inside(before, rest) if found.group()[-1] not in "\"'" else (rest, "")
        command = split(rest)
        command.words = _without_label(command.words)
        line = command.another or (f"{command.behind} {behind}" if SSH.search(command.behind) else behind)
        if command.another or re.match(r"[;&|<>\s]*ssh\s", command.behind):
            command = Command([word for word in command.words if not word.endswith(":")])
        if _is_command(command.words, before, found.group()):
            yield command


def _without_label(words: list[str]) -> list[str]:
    """`words` without what makes `SSH` a heading: "SSH command: root@...", "SSH into root@..."; none before a label."""
    place = next((i for i, word in enumerate(words) if word.startswith("-") or _names_a_machine(word)), 0)
    if place and "@" not in words[place] and any(CELL.fullmatch(word.strip("{[*,:")) for word in words[:place] if word.endswith(":")):
        return []
    heading = all(word.endswith(":") or word.lower() in NOT_AN_ALIAS for word in words[:place])
    return words[place:] if heading else words


def _inside(before: str, rest: str) -> tuple[str, str]:
    """`rest` up to the quote that closes the one at the end of `before`, if there is one; and what stands behind it."""
    quote = before[-1:]
    if quote not in ('"', "'", "`"):
        return rest, ""
    closed = re.match(rf"((?:[^{quote}\\]|\\.)*){quote}(.*)", rest)
    inside, behind = closed.groups() if closed else (rest.rstrip(quote), "")
    return (inside.replace('\\"', '"') if quote == '"' else inside), behind


def _names_a_machine(word: str) -> bool:
    return not word.startswith("-") and ("@" in word or _is_machine(word))


def _is_machine(word: str) -> bool:
    """Whether `word` says by itself that it is a machine: an address, or a name with its domain."""
    bare = word[:300].strip("[]()<>,;")
    return is_address(bare) or bool(DOMAIN.fullmatch(bare.rpartition(":")[0] if bare.count(":") == 1 else bare))


def _is_command(words: list[str], before: str, called: str) -> bool:
    """Whether `ssh` was meant as a command: it has options or a login behind it, or it stands alone before one name."""
    if is_a_tools_own(before):
        return False
    if re.search(r"(?i)\b(?:gcloud|az|aws|vagrant|kubectl|heroku|fly|flyctl|gh|eb|brev|docker-machine)\b", before):
        return False
    if any("@" in word or word.startswith("ssh://") or re.match(r"-[A-Za-z46]", word) for word in words) or any(
        map(_is_machine, words[:1])
    ):
        return True
    typed = "".join(re.findall(r"[A-Za-z]+\s*$", before)).strip().lower()
    meant = not typed or typed in WRAPPERS or bool(PATH_OF_SSH.search(before[-200:]))
    return bool(meant and not called.startswith("SSH") and words and words[0].lower() not in NOT_AN_ALIAS and words[0].isascii())


def _by_line(text: str) -> list[Login]:
    """Logins without `ssh` in front: user@machine, with options or not."""
    text = re.sub(r"(?i)\b(?!ssh:)[a-z][a-z0-9+.-]*://\S+", " ", text)
    found = []
    for line in (LABEL_IN_FRONT.sub("", line) for line in text.split("\n")):
        command = split(line) if "@" in line and not is_no_login(line) else Command()
        start = next((i for i, word in enumerate(command.words) if re.match(r"-[A-Za-z46]|[^@]+@", word)), 0)
        options = any(re.match(r"-[plioJ]", word) for word in command.words[start:])
        place = next((word for word in command.words[start:] if "@" in word[1:]), "")
        if _is_plain_login(place, options):
            told = read_command(Command(command.words[start:], command.behind))
            found.append(told if told.port else replace(told, port=port_in(" ".join(command.words[:start]))))
    return found


def _is_plain_login(word: str, options: bool) -> bool:
    """Whether user@machine is one and no password with an @ in it, and no e-mail address."""
    bare = word.strip("\"'`()<>[]{},;")
    user, _, host = bare.rpartition("@")
    name = re.sub(r":\d+\W*$", "", host).strip("[]:.,")
    return bool(LOGIN_NAME.fullmatch(user)) and (options or user == "root" or _is_machine(name) or bool(ALIAS.fullmatch(name)))


def _by_word(text: str) -> list[Login]:
    """A machine alone, with a port or not, or an alias; nothing else may be on its line."""
    line = re.sub(r"^[^:@\s]{1,20}(?: [^:@\s]{1,20}){0,3}:\s+", "", text.split("\n")[0]).strip("\"'`")
    if len(line) > LONGEST_LINE:
        return []
    line = re.sub(r"(?<=\S)[,;][ ]?(?=\S)", " ", line)
    found = re.fullmatch(
        r"(\S{1,300}?)(?:(?:[\s:=]+(?:-p|[Pp]ort|端口)?|端口)[\s:=]*(\d{2,5}))?(?:\s+(root|ubuntu|admin|[a-z]+-user|[a-z][a-z0-9_-]*(?=/\S))(?:[\s/:]+\S+)?)?[\s,;.。]*",
        line,
    )
    if not found or not (NAME.fullmatch(found.group(1)) or is_address(found.group(1).strip("[]")) or _is_machine(found.group(1))):
        return []
    word, number, user = found.groups()
    if not (_is_machine(word) or ALIAS.fullmatch(word)) or word in NOT_AN_ALIAS or word.lower().startswith("www."):
        return []
    host, _, port = read_place(word)
    if (number or port) and int(number or port) in (80, 443, 6006, 6008, 8080, 8443, 8888):
        return []
    return [read_command(Command([f"{user}@{word}" if user else word, *(["-p", number] if number else [])]))] if host else []
