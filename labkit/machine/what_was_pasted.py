"""What a paste is when it holds no login: told by its kind, so that nothing of it has to be repeated.

Covers: web addresses, keys, other programs' commands, answers of ssh, prompts, passwords. Never raises. Used by `logins`.
"""

from __future__ import annotations

import re

from ..common.errors import SettingError
from .login_parts import COPY_AGAIN, EXAMPLE

TOOLS = {
    r"(?:scp|rsync|sftp)": "a command that copies files",
    r"(?:sshfs|sshfs-win)": "a command that mounts a folder",
    r"(?:putty|plink|pscp|kitty|winscp)(?:\.exe)?": "a command of PuTTY or WinSCP, whose options are not ssh's",
    r"ssh-(?:keygen|copy-id|add|agent|keyscan)": "a command that deals with keys",
    r"(?:telnet|mosh|sshuttle|ftp|curl|wget|ping|nc|git)": "a command of another program",
    r"(?:gcloud|az|aws|vagrant|kubectl|heroku|fly|flyctl|gh|eb|brev|docker-machine|runpodctl|vastai)": "a command of a platform's program",
}
"""How a line begins, and what it then is."""
PROMPT = (
    r"^(?:\([\w.-]+\)\s*)?(?:[\w.-]+@[\w.-]+[:\s][^$#%>\n]{0,200}[$#%>]|PS [A-Za-z]:\\[^>\n]{0,200}>|[A-Za-z]:\\[^>\n]{0,200}>"
    r"|[$#%>\u276f\u279c])\s*"
)
ANSWERS = (
    r"(?i)permission denied|connection (?:refused|closed|reset|timed out)|'s password:|authenticity of host|host key|could not resolve|"
    r"identification has changed|kex_exchange|channel \d+: open failed|cannot listen|connection to \S+ closed|permanently added|"
    r"no route to host|bad owner|@\S{1,255}'s(?:\s|$)"
)
MAIL = r"(?i)[\w.+-]{1,64}@(?:gmail|googlemail|outlook|hotmail|live|qq|163|126|foxmail|icloud|yahoo|proton|protonmail|sina)\.\w+"
PUBLIC_KEY = r"(?:^|\s)(?:ssh-(?:rsa|ed25519|dss)|ecdsa-sha2-\S+|sk-\S+) AAAA|-----BEGIN [A-Z0-9 ]*PUBLIC KEY"
PAGE = (
    r"(?i)(?:\b(?:https?|ftp|wss?|file)://|\bwww\.|[\w-]{1,63}\.[a-z]{2,}(?::\d+)?/\S)"
    r"|(?:localhost|[\w-]{1,63}\.[\w.-]{0,200}[a-z]{2}|\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}):(?:80|443|6006|6008|8080|8443|8888)(?:/\S*)?(?:\s|$)"
)
FINGERPRINT = r"\b(?:SHA256:[\w+/]{3,}|MD5:(?:[0-9a-f]{2}:){3})"
PROMPT_OF_A_MACHINE = r"(?:\([\w.-]+\)[ ]?)?[\w.-]+@[\w.-]+:[~/][^$#%>\n]{0,200}[$#%>]"
KINDS = (
    (
        r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY|PuTTY-User-Key-File",
        "a private key",
        "Show it to nobody: whoever has seen it can log in as you. The login line has no key in it",
    ),
    (PUBLIC_KEY, "a public key", "It goes into the platform's settings. The login line looks like"),
    (ANSWERS, "what ssh answered", "docs/troubleshooting.md explains such answers. Here belongs the line that was typed"),
    (PAGE, "a web address", "The page of JupyterLab is another way in. The login line begins with ssh"),
    (MAIL, "an e-mail address", "The login line looks like"),
    (FINGERPRINT, "the fingerprint of a key", "It tells one machine, or one key, from another. The login line looks like"),
    (PROMPT + "$|^" + PROMPT_OF_A_MACHINE, "the prompt of a terminal", "The login line is what is typed behind it, on your own computer"),
)
"""Pattern, what the paste then is, what to do; the example follows."""


def is_no_login(line: str) -> bool:
    """Whether a line with an @ in it is another program's command, an answer of ssh, a prompt or an e-mail address."""
    said = (ANSWERS, MAIL, PUBLIC_KEY, FINGERPRINT, "^" + PROMPT_OF_A_MACHINE)
    return bool(tool_in(line) or re.fullmatch(PROMPT, line) or any(re.search(pattern, line) for pattern in said))


def is_a_tools_own(before: str) -> bool:
    """Whether the `ssh` behind `before` is the value of another program's option: rsync -e 'ssh -p 46457'."""
    return bool(re.search(r"(?:\s-\w*e|\s--rsh|\s--ssh)[ \t]*=?[ \t]*[\"']?(?:\S*/)?$", before) and tool_in(before + "ssh"))


def tool_in(line: str) -> str:
    """What a line is that calls another program than ssh, "" if it calls none."""
    bare = re.sub(PROMPT, "", line)
    return next((what for name, what in TOOLS.items() if re.match(rf"(?i)(?:sudo )?{name}(?:\s+\S|$)", bare)), "")


def refusal(whole: str, told: str) -> SettingError:
    """Why `whole`, which is `told` without its passwords, is no login."""
    for line in told.split("\n"):
        if tool := tool_in(line):
            return SettingError(f"The paste holds no login line, but {tool}.", f"The line begins with ssh: {EXAMPLE}")
    for pattern, what, fix in KINDS:
        if re.search(pattern, told, re.MULTILINE):
            return SettingError(f"The paste holds no login line; it looks like {what}.", f"{fix}: {EXAMPLE}")
    if not told.strip(" \n:,;\"'{}") or told != whole:
        return SettingError(
            "The paste holds a password, but no login line.",
            f"The password is typed when ssh asks for it, nowhere else. {COPY_AGAIN}",
        )
    if len(told.split()) == 1:
        return SettingError(
            "The paste is one word, which does not look like a machine; it could be a password.",
            f"For an alias of ~/.ssh/config write ssh in front of it; a login line looks like: {EXAMPLE}",
        )
    return SettingError("The paste holds no login line: no ssh command, and no user@machine.", COPY_AGAIN)
