r"""The path of a file on the student's own computer, as Linux, macOS or Windows writes it, for each place where it is printed.

`~\`, `%USERPROFILE%\` and `$env:USERPROFILE\` all mean the home folder. ssh expands `~/` alone: a `%` it takes for a token of its
own ("percent_expand: unknown key %U"), and behind `~` it looks for a slash, on Windows too (tilde_expand in OpenSSH's misc.c).

Does not cover: whether the file is there, which only the other computer knows. Raises `SettingError`, which never repeats the path.
"""

from __future__ import annotations

import re

from ..common.errors import SettingError

HOME = re.compile(
    r"(?i)(?P<windows>%USERPROFILE%|%HOMEDRIVE%%HOMEPATH%|%HOMEPATH%|\$env:USERPROFILE|\$\{env:USERPROFILE\}"
    r"|\$env:HOMEDRIVE\$env:HOMEPATH|\$env:HOMEPATH)?(?(windows)|(?:~|\$HOME|\$\{HOME\}))(?P<slash>[\\/])(?P<rest>.*)"
)
DRIVE = re.compile(r"[A-Za-z]:[\\/]")
HARMLESS = re.compile(r"[\w .,+=@~/\\:()\[\]&'!#{}-]+")
TOKENS = re.compile(r"%[dhilnpru]")
"""ssh's own tokens that a path may have (ssh_config(5), TOKENS)."""
BARE_IN_POWERSHELL = re.compile(r"[A-Za-z0-9_.:/@=+\\~-]+")


def read_path(text: str) -> str:
    """`text` if it can be a file's path: no variable besides the home folder's, nothing that a shell or ssh takes for more."""
    path = text.strip()
    home = HOME.fullmatch(path)
    rest = home.group("rest") if home else path
    if re.search(r"[%$]", TOKENS.sub("", rest)):
        raise SettingError(
            "The path of a key has a variable in it.", "Write the path out, or with ~ for your home folder: -i ~/.ssh/id_ed25519"
        )
    if not rest.strip(" .\\/") or path.startswith("-") or not HARMLESS.fullmatch(TOKENS.sub("", rest)):
        raise SettingError(
            "The path of a key has characters that no such path should have.", "Rename the file, or give it by an alias of ~/.ssh/config."
        )
    return path


def for_command(path: str) -> str:
    """The path as a word for ssh on any system."""
    home = HOME.fullmatch(path)
    return "~/" + home.group("rest").replace("\\", "/") if home else path


def for_config(path: str) -> str:
    r"""The path as a value in ~/.ssh/config. There `\\` is one backslash, so a share is written with slashes, which Windows takes."""
    word = for_command(path)
    word = word.replace("\\", "/") if "\\\\" in word else word
    return f'"{word}"' if re.search(r"[ #'=]", word) else word


def for_powershell(path: str) -> str:
    """The path as a word that is typed into PowerShell."""
    home = HOME.fullmatch(path)
    if not home or (home.group("slash") == "/" and not home.group("windows")):
        return powershell_word(for_command(path))
    word = rf"$env:USERPROFILE\{home.group('rest')}"
    return word if BARE_IN_POWERSHELL.fullmatch(word[1:]) else f'"{word}"'


def powershell_word(word: str) -> str:
    """`word`, quoted where PowerShell would read more into it."""
    return word if BARE_IN_POWERSHELL.fullmatch(word) else "'" + word.replace("'", "''") + "'"
