"""Logins that are not a command: blocks of ~/.ssh/config, and machine, port and user told by name, in lines, tables or JSON.

Covers: OpenSSH's block; the labels of consoles, WinSCP, VS Code and JSON answers, English and Chinese. Does not cover: commands
(`ssh_command`). Raises `SettingError` for parts that cannot be. Used by `logins`.
"""

from __future__ import annotations

import re

from .login_parts import Login, read_place
from .ssh_options import NAMES, LoginSettings

LABELS = {
    "host": (
        "host, host[ _]?name, machine, ssh[ _]?host, ssh[ _]?addr(?:ess)?, proxy[ _]?host, server, server address, address, host address, "
        "remote host, ip, ipv4, ip[ _]?address, public[ _]?ip(?:v4)?, public ip(?:v4)? address, external ip(?: address)?, "
        "主机, 主机名, 主机名称, 主机地址, 主机[ ]?IP, 地址, 服务器, 服务器地址, 服务器[ ]?IP, 连接地址, 登录地址, "
        "SSH(?:主机|地址|服务器|[ ]?IP), "
        "(?:弹性)?[公外]网[ ]?IP, (?:弹性)?[公外]网[ ]?(?:IP[ ]?)?地址, IP[ ]?地址, 域名"
    ),
    "port": "port, ssh[ _]?port, (?:public|external)[ _]?port, port[ _]?number, 端口, 端口号, SSH端口, SSH端口号, [公外]网端口, 登录端口",
    "user": (
        "user, (?:specify )?user[ _]?name, ssh[ _]?user, login, login name, account, 用户, 用户名, 用户名称, 账号, 帐号, 账户, 登录名, "
        "登录用户, 登录账号, 登录用户名, SSH(?:用户名?|账号)"
    ),
    "key": "identity[ _]?file, key[ _]?file, private[ _]key, private[ _]key[ _]file, ssh key, 密钥文件, 私钥, 私钥文件, 密钥",
}
"""What is called so by consoles and programs; regular expressions, of which the longest is tried first."""
LABEL = "|".join(f"(?P<{kind}>{'|'.join(sorted(names.split(', '), key=len, reverse=True))})" for kind, names in LABELS.items())
LABEL_WORD = re.sub(r"\?P<\w+>", "?:", LABEL)
KNOWN_USER = r"(?:root|ubuntu|debian|admin|administrator|[a-z]+-user)"
VALUE = r"\"(?P<two>[^\"\n]*)\"|'(?P<one>[^'\n]*)'|(?P<bare>[^\s,;\"'|{}]+)"
FIELD = re.compile(
    rf"(?i)(?<![\w.@/\\-])[\"'*]?(?:{LABEL})(?:[ \t]?\([^()\n]{{0,20}}\))?[\"'*]?"
    rf"(?:[ \t]*[:=][ \t]*|(?<=[^\x00-\x7f])[ \t]*(?:是|为)?[ \t]*(?=[A-Za-z0-9~\[])(?!(?:{LABEL_WORD})(?![\w.-]))"
    rf"|[ \t]*(?:是|为|is[ ])?[ \t]*(?=(?:\d{{1,3}}\.){{3}}\d)|(?<=port)(?:[ \t]+is)?[ \t]+(?=\d{{2,5}}\b)"
    rf"|(?<=(?:user|name|ogin))(?:[ \t]+is[ \t]+(?=[a-z_][\w-]*(?:[,;.\s]|$))|[ \t]+(?={KNOWN_USER}(?![\w.-]))))(?:{VALUE})"
)
ROW = re.compile(
    rf"(?i)\|?[ \t]*(?:{LABEL})[ \t]*\*?[ \t]*(?:\||\t|[ ]{{2,}}|[ ](?=\S+$))[ \t]*"
    rf"(?!(?:{LABEL_WORD})[ \t]*(?:[:=]|$))(?P<bare>[^\s|]+)[ \t]*\|?"
)
ALONE = re.compile(rf"(?im)^[ \t]*(?P<label>{LABEL})[ \t]*:?[ \t]*\n(?!.*:)")
"""A label that has a line to itself, as pages give it; its value stands on the next one."""
CELL = re.compile(rf"(?i)[ \t]*(?:{LABEL})[ \t]*(?:\([^()\n]{{0,20}}\)|\*)?[ \t]*")
PRIVATE = re.compile(r"(?i)(?:内网|私网|私有|private|internal)[ _]?(?!key|[ _]key)(?:ip|地址|IP地址|ip address)?")
KEYWORD = re.compile(r"(?i)^[ \t]*([A-Za-z0-9]+)(?:[ \t]*=[ \t]*|[ \t]+)(\"[^\"\n]*\"|\S.*)$")
WORDS = re.compile(
    rf"(?i)(?:^|(?<=\s))({'|'.join(sorted(NAMES.values(), key=len, reverse=True))})(?:[ \t]*=[ \t]*|[ \t]+)(\"[^\"\n]*\"|\S+)"
)


def config_logins(text: str) -> list[Login]:
    """The machines of blocks for ~/.ssh/config. `Host *` holds for all of them; what it sets comes last, as ssh wants it there."""
    lines = text.split("\n")
    if not re.search(r"(?im)^[ \t]*Host[ \t]+[^:\n]+$|(?:^|\s)HostName[ \t]+[^\s:=]", text):
        return []
    if not re.search(r"(?i)\bHostName\b", text) and sum(map(bool, _head(lines[0]))) > 1:
        return []
    rows = [found.groups() for line in lines if (found := KEYWORD.match(line)) and found.group(1).lower() in NAMES]
    if len(lines) == 1 and re.match(r"(?i)Host[ \t]", text) and re.search(r"(?i)[ \t]HostName[ \t=]", text):
        rows = [found.groups() for found in WORDS.finditer(text)]
    blocks: list[tuple[str, list[tuple[str, str]]]] = []
    for name, value in rows:
        value = re.sub(r"[ \t]+#.*", "", value).strip().strip('"')
        if name.lower() == "host" or not blocks:
            blocks.append((value if name.lower() == "host" else "", []))
        if name.lower() != "host":
            blocks[-1][1].append((name, value))
    shared = [row for host, rows_ in blocks if host == "*" for row in rows_]
    named = {"hostname", "user", "port", "identityfile", "proxyjump"}
    meant = [(host, own) for host, own in blocks if host != "*" and named & {name.lower() for name, _ in own}]
    return [_block(host, [*own, *shared]) for host, own in meant]


def _block(alias: str, rows: list[tuple[str, str]]) -> Login:
    settings = LoginSettings()
    for name, value in rows:
        settings.take(name, value)
    host, user, port = read_place(settings.host or (alias.split() or [""])[0])
    return Login(host, settings.user or user, settings.port or port, tuple(settings.kept))


def labelled_logins(text: str) -> list[Login]:
    """The machines whose parts stand behind labels. A machine named anew begins the next login."""
    parts = _parts(ALONE.sub(r"\g<label>: ", PRIVATE.sub("private", re.sub(r"\bansible_(?:ssh_)?", "", text))))
    found: list[dict[str, str]] = [{}]
    for kind, value in parts:
        if kind in found[-1] and "host" in found[-1] and (kind == "host" or found[-1][kind] != value):
            found.append({})
        found[-1].setdefault(kind, value)
    alone = [len(part) == 1 and "@" in "".join(part.values()) for part in found]
    return [_labelled(part) for part, one in zip(found, alone, strict=True) if "host" in part and not one]


def _parts(text: str) -> list[tuple[str, str]]:
    lines = text.split("\n")
    for number, line in enumerate(lines):
        kinds = _head(line)
        if sum(map(bool, kinds)) > 1 and not FIELD.search(line):
            rows = [_cells(row) for row in lines[number + 1 :] if not re.fullmatch(r"[\s|:+=-]+", row)]
            return [(kind, cell) for cells in rows for kind, cell in zip(kinds, cells, strict=False) if kind and cell]
    parts = []
    for line in lines:
        row = ROW.fullmatch(line)
        parts += [_named(row)] if row else [_named(found) for found in FIELD.finditer(line)]
    return [(kind, value) for kind, value in parts if value]


def _cells(line: str) -> list[str]:
    if "|" in line:
        return [cell.strip() for cell in line.strip().strip("|").split("|")]
    return re.split(r"\t|,|[ ]{2,}", line.strip()) if re.search(r"\t|,|\S[ ]{2,}\S", line) else line.split()


def _head(line: str) -> list[str]:
    """What each cell is a label for, "" for a cell that is none."""
    found = [CELL.fullmatch(cell) for cell in _cells(line)]
    return [_kind(match) if match else "" for match in found]


def _kind(found: re.Match[str]) -> str:
    return next(kind for kind in ("host", "port", "user", "key") if found.group(kind))


def _named(found: re.Match[str]) -> tuple[str, str]:
    groups = found.groupdict()
    return _kind(found), (groups.get("two") or groups.get("one") or groups.get("bare") or "").strip()


def _labelled(part: dict[str, str]) -> Login:
    settings = LoginSettings()
    for kind, name in (("port", "Port"), ("key", "IdentityFile")):
        if part.get(kind) and (kind != "key" or re.search(r"[\\/~]|\.pem\b|\bid_", part[kind])):
            settings.take(name, part[kind])
    if part.get("user"):
        settings.take("User", part["user"].partition("@")[0].rstrip(",;.。"))
    host, user, port = read_place(part["host"])
    return Login(host, user or settings.user, settings.port or port, tuple(settings.kept))
