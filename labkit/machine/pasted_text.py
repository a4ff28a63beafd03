"""A paste as it was meant: what consoles, chat windows, Word and PDF put into a line of text is taken out again.

Covers: characters (full width, dashes, quotes, invisible ones, colours of a terminal), marks (HTML, Markdown, Slack), list signs,
continued lines, passwords with a label; reading it from a terminal. Does not cover: what the text says (`logins`). Never raises.
"""

from __future__ import annotations

import html
import re
import select
import sys
import termios
import unicodedata
from urllib.parse import unquote

from .login_parts import TOP_LEVEL

TERMINAL = re.compile(r"(?:\x1b|\^\[)\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|\x9b[0-9;?]*[@-~]")
LOOKALIKES = str.maketrans({
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u2212\u2e3a\u2e3b\ufe58\ufe63\uff0d\u02d7", "-"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u2036\u00ab\u00bb\uff02\u301d\u301e\u301f", '"'),
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u2035\u2039\u203a\uff07\u00b4\u02bc\u02b9", "'"),
    **dict.fromkeys("\uff40\u02cb", "`"),
    **dict.fromkeys(map(chr, [*range(0x2460, 0x2500), *range(0x2776, 0x2794)]), " "),
    **dict.fromkeys("\u300c\u300d\u300e\u300f\u3010\u3011\u3014\u3015\u3016\u3017\u300a\u300b\u3008\u3009\u3000\u2502\u2503", " "),
})  # fmt: skip
VARIANTS = re.compile("[\u034f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")
TAGS = (
    (re.compile(r"(?i)<(?:br|/?p|/?div|/?li|/?tr|/?pre|/?ul|/?ol|/?table|/?h[1-6])\b[^<>\n]{0,200}>"), "\n"),
    (re.compile(r"(?i)</?(?:code|kbd|span|b|strong|em|i|u|a|font|td|th|tbody|thead|tt|samp|mark)(?:\s[^<>\n]{0,500})?>"), " "),
    (re.compile(r"\[([^\[\]\n]{1,300})\]\((?:mailto:|https?:|ssh:)[^()\s]{1,500}\)"), r"\1"),
    (re.compile(r"<(?:mailto:|https?://)[^|<>\s]{1,500}\|([^<>\n]{1,300})>"), r"\1"),
    (re.compile(r"<(?:mailto:)?([\w.+%-]{1,64}@[^<>\s]{1,255})>"), r"\1"),
    (re.compile(r"(?i)\bmailto:|(?<=@)https?://"), ""),
    (re.compile(r"(?i)<(host|hostname|port|user|username)>([^<>\n]{0,300})</\1>"), r"\1: \2" + "\n"),
    (re.compile(r"\*\*+"), " "),
)
NAME_IN_PIECES = re.compile(rf"(?<=@)(?:[\w-]{{1,63}}\\?\.[ ]?){{1,6}}{TOP_LEVEL}\b|(?<=@)(?:\d{{1,3}}\\?\.[ ]?){{3}}\d{{1,3}}\b")
"""A machine's name with what translators and Markdown put into it: blanks behind the dots, backslashes before them."""
BULLET = r"[-*+][ \t]+|[\u2022\u00b7\u25aa\u25ba\u25cf\u25cb\u2192][ \t]*|\(?\d{1,2}[.)\u3001](?:[ \t]+|(?=[^\d\s]))"
LIST = re.compile(r"\[\s*([\"'])ssh(?:\.exe)?\1(?:\s*,\s*(?:\"[^\"\n]*\"|'[^'\n]*'))+\s*,?\s*\]")
"""A command as programs hold it, word by word."""
LINES = (
    (re.compile(r"((?:[A-Za-z]:|[~.])\\[^\s\"']*\\)[ \t]*\n[ \t]*(?=[\w.])"), r"\1"),
    (re.compile(r"(?<=\w)@[ \t]*\n[ \t]*(?=[\w-]+\.[\w-])"), "@"),
    (re.compile(r"(?m)(?<![^\s\"'])([*_~]{1,2})(?=\S)((?i:ssh)[ \t][^*\n]*?\S)\1(?=$|[\s.,;:])"), r"\2"),
    (re.compile(rf"(\.{TOP_LEVEL}|@\d+\.\d+\.\d+\.\d+)(?=(?:ssh|SSH)[ \t]+(?:-|\S+@)|(?:Password|Passwd|Pass|Port)\b)"), r"\1" + "\n"),
    (
        re.compile(r"(?i)\bautossh(?:\.exe)?((?:[ \t]+-[A-Za-z]+)*?)[ \t]+-M[ \t]*\d+(?::\d+)?(?=\s)|\bautossh(?:\.exe)?(?=[ \t]+[-\w])"),
        r"ssh\1",
    ),
    (re.compile(r"[ \t]+(?:(?:[0-2]|&)?>{1,2}[ \t]*(?:/dev/null|NUL|\$null)|2>&1|<[ \t]*/dev/null)(?=\s|$)"), " "),
    (re.compile(r"((?:\d{1,3}\.){3}\d{1,3})[ \t]?\((?:公网?|外网?|弹性[^()\n]{0,8}|public|EIP)\)"), r"\1 "),
    (re.compile(r"(?:\d{1,3}\.){3}\d{1,3}[ \t]?\((?:私[有网]?|内网?|private|internal)\)"), " "),
    (re.compile(r"(?m)^[ \t]*(?:```|~~~)[ \t]*[\w+-]*[ \t]*$"), ""),
    (re.compile(r"```+(?:[ \t]*(?:bash|shell|sh|console|text|powershell)\b)?"), "`"),
    (re.compile(r"[ \t]+[\\^`][ \t]*\n[ \t]*|\\[ \t]*\n[ \t]*"), " "),
    (re.compile(r"(?m)^[ \t]*>{1,3}[ \t]"), ""),
    (re.compile(rf"(?m)(?<!\w-\n)^[ \t]*(?:{BULLET})(?=\S)"), ""),
    (re.compile(r"(账号|账户|用户名?)[ \t]?[/和及]?[ \t]?密码[ \t]*:?[ \t]*([\w.-]{1,64})[ \t]?/[ \t]?\S+"), r"\1: \2 "),
    (re.compile(r"(?<=[\w.])[,;\u3001][ \t]*(?=(?i:ssh)(?:\.exe)?[ \t])"), "\n"),
    (re.compile(r"(?<=[ \t])-[ \t]+(?=[plioJ][ \t]+\S)"), "-"),
    (re.compile(r"(?<=[\u2e80-\u9fff]):(?=\S)"), ": "),
    (re.compile(r"(?<=[A-Za-z0-9_-])\u3002(?=[A-Za-z0-9_-])"), "."),
    (re.compile(r"(?<![\w.-])(?=[\w.-]{0,63}[A-Za-z_])([\w.-]{1,64})[ \t]+@[ \t]*(?=[\w-]+\.[\w-])"), r"\1@"),
    (re.compile(r"(?<=[A-Za-z0-9_])@[ \t]+(?=[\w-]+\.[\w-])"), "@"),
    (NAME_IN_PIECES, lambda found: re.sub(r"[ \\]", "", found.group())),
    (re.compile(r"(?m)(^|[ \t])p(?=[ \t]+\d{2,5}[ \t])"), r"\1-p"),
    (re.compile(r"(@[\w.-]{1,253})[ \t]*:[ \t]+(?=\d{2,5}\b)"), r"\1:"),
)
NOTE = r"(?:[ \t]?\([^()\n]{0,20}\))?[\"']?"
PASSWORD = re.compile(
    r"(?i)(?<![\w./\\%=-])[\"']?(?:[\w-]{1,12}[_-])?"
    rf"(?:(?:密[ \t]?码|口[ \t]?令){NOTE}(?:[ \t]*(?:[:=|]|是|为)|[ \t]*(?=\S))"
    rf"|(?:password|passwd|passcode|passphrase){NOTE}(?:[ \t]*[:=|]|[ \t]+is\b|[ \t]+(?!-[A-Za-z]|\S+@\S+\.)(?=\S))"
    r"|(?:pass|pwd|pw|secret|token)[\"']?[ \t]*[:=|])[ \t]*"
)
GOES_ON = re.compile(
    r"(?i)(?<![A-Za-z0-9_.@-])ssh(?:\.exe)?[ \t]+(?:-|\S+@)|\bIP[ \t]+(?=\d+\.)"
    r"|(?:主机|地址|端口|用户|账号|帐号|账户|登录|指令|命令|域名|[公外]网)[^\s:=]{0,4}[ \t]*(?:[:= ]|(?<=[^\x00-\x7f])(?=[A-Za-z0-9]))"
    r"|[\"']?\b(?:(?:ssh|proxy|public)[_ ]?)?(?:host|hostname|port|user|username|ip|command|login)[\"']?[ \t]*[:=]"
)
"""Where something else begins behind a password on the same line."""


def pasted_lines() -> str:
    """All lines that are pasted into the terminal: the rest of them, often a password, would be typed into the shell afterwards."""
    lines = [sys.stdin.readline()]
    while select.select([sys.stdin], [], [], 0.2)[0] and (line := sys.stdin.readline()):
        lines.append(line)
    termios.tcflush(sys.stdin, termios.TCIFLUSH)
    return "".join(lines)


def clean(text: str) -> str:
    """`text` in plain characters, one thing a line."""
    text = unquote(text) if re.search(r"(?i)\bssh%20", text) else text
    text = re.sub(r"(@[\w.-]{1,253})(?:\\[nrt])+", r"\1\n", ESCAPED.sub(lambda found: chr(int(found.group(1), 16)), text))
    text = TERMINAL.sub("", html.unescape(text.translate(LOOKALIKES)))
    text = unicodedata.normalize("NFKC", text.translate(LOOKALIKES)).translate(LOOKALIKES)
    lines = ("".join(map(_visible, line)) for line in text.splitlines())
    text = re.sub(r"[ \t]{4,}", "   ", "\n".join(lines))
    text = LIST.sub(lambda found: re.sub(r"(?<=[\"'])\s*,\s*(?=[\"'])", " ", found.group()).strip("[], \n"), text)
    for pattern, instead in TAGS + LINES:
        text = pattern.sub(instead, text)
    return "\n".join(line for line in map(str.strip, text.split("\n")) if line)


def _visible(character: str) -> str:
    kind = unicodedata.category(character)
    if character != "\t" and (character.isspace() or kind == "Co"):
        return " "
    return "" if kind in {"Cc", "Cf", "Cs"} and character != "\t" or VARIANTS.match(character) else character


def without_passwords(text: str) -> str:
    """`text` without what stands behind the word for a password, up to the end of its line or to what begins anew there."""
    return "\n".join(_without_password(line) for line in text.split("\n"))


def _without_password(line: str) -> str:
    kept, rest = "", line
    while found := PASSWORD.search(rest):
        kept, rest = kept + rest[: found.start()] + " ", rest[found.end() :]
        quoted = re.match(r"([\"'])(?:(?!\1)[^\\]|\\.)*\1", rest)
        more = GOES_ON.search(rest)
        rest = rest[quoted.end() :] if quoted else rest[more.start() :] if more else ""
    return kept + rest
