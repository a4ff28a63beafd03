"""Personal data and secrets in a text, each replaced by its kind: <email>, <mobile>, <phone>, <id>, <card>, <ip>, <secret>.

    mask("Call 138 1234 5678 or write to li@example.com")     'Call <mobile> or write to <email>'

Covers: e-mail addresses; Chinese mobile numbers; international numbers with +, Chinese and North American ones with their usual
marks; Chinese resident identity numbers (18 digits); bank cards; IPv4 and IPv6; bearer tokens, API keys of known shapes, values
after password=, token= and the like, logins in URLs, private keys. Full-width digits, as Chinese input methods type them, count.
Left alone: times and dates, version numbers, UUIDs, hashes and trace ids, fractions.

Does not cover: names, postal addresses, anything said in words, and numbers that look like no kind above. Patterns are never
complete: what nobody may read should not be written at all. Used by notebook 06 through `audit`.

Sources: identity numbers are built as in GB 11643-1999 (region, date of birth, serial number, check digit), cards as in
ISO/IEC 7812 (first digits, Luhn check digit), international numbers as in ITU-T E.164 (at most 15 digits).
"""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Callable
from typing import NamedTuple

HALF_WIDTH = {ord(sign) + 0xFEE0: sign for sign in "0123456789@.+-" + "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + "abcdefghijklmnopqrstuvwxyz"}
"""Full-width signs, as Chinese input methods type them, to plain ones; one character stays one."""
REGIONS = {11, 12, 13, 14, 15, 21, 22, 23, 31, 32, 33, 34, 35, 36, 37, 41, 42, 43, 44, 45, 46}
REGIONS |= {50, 51, 52, 53, 54, 61, 62, 63, 64, 65, 71, 81, 82, 83, 91}
"""First two digits of an identity number: provinces, Taiwan, Hong Kong, Macao, abroad."""


class Rule(NamedTuple):
    """`kind` replaces what `pattern` matches and `holds` confirms; of a pattern with groups "keep" or "rest", these stay."""

    kind: str
    pattern: re.Pattern[str]
    holds: Callable[[str], bool] = lambda text: True


def mask(text: str) -> str:
    """`text` with every kind of personal data replaced; masking twice changes nothing more. Takes any text, raises nothing."""
    text = _apply(FIRST, text.translate(HALF_WIDTH))
    parts = KEEP.split(text)  # what is to be left alone stands at the odd places
    return "".join(part if place % 2 else _apply(NUMBERS, part) for place, part in enumerate(parts))


def _apply(rules: tuple[Rule, ...], text: str) -> str:
    for rule in rules:
        text = rule.pattern.sub(lambda match, rule=rule: _replaced(rule, match), text)  # type: ignore[misc]
    return text


def _replaced(rule: Rule, match: re.Match[str]) -> str:
    groups = match.groupdict()
    before, after = groups.get("keep") or "", groups.get("rest") or ""
    value = match.group()[len(before) : len(match.group()) - len(after)]
    return f"{before}<{rule.kind}>{after}" if rule.holds(value) else match.group()


def _digits(text: str) -> str:
    return "".join(sign for sign in text if sign.isdigit())


def _is_identity(text: str) -> bool:
    """Region and date of birth are those of a person. The check digit is not asked for: a mistyped number still names somebody."""
    digits = re.sub(r"[ -]", "", text)
    if int(digits[:2]) not in REGIONS:
        return False
    try:
        born = datetime.date(int(digits[6:10]), int(digits[10:12]), int(digits[12:14]))
    except ValueError:
        return False
    return 1900 <= born.year <= datetime.date.today().year


def _is_card(text: str) -> bool:
    """Luhn's check digit, over a number that begins as the card networks' do; times in milliseconds begin with 1."""
    digits = _digits(text)
    doubled = [int(digit) * (2 if place % 2 else 1) for place, digit in enumerate(reversed(digits))]
    luhn = sum(number - 9 if number > 9 else number for number in doubled) % 10 == 0
    mastercard = len(digits) == 16 and 2221 <= int(digits[:4]) <= 2720
    return luhn and (digits[0] in "3456" or mastercard) and len(set(digits)) > 1


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return any(sign.isdigit() for sign in text)  # else a::b of a programming language


def _is_ipv4(text: str) -> bool:
    return all(int(part) <= 255 and (part == "0" or not part.startswith("0")) for part in text.split("."))


def _is_token(text: str) -> bool:
    """Not a word of a sentence: "bearer authentication"."""
    return any(sign.isdigit() for sign in text) or len(text) >= 24


def _is_value(text: str) -> bool:
    """Not what a log says in place of a value."""
    return text.lower().strip("*.") not in {"", "none", "null", "true", "false", "missing", "invalid", "expired", "required", "empty"}


def _is_token_value(text: str) -> bool:
    """Nor a count or an id: token=128."""
    return _is_value(text) and not re.fullmatch(r"\d{1,7}", text)


def _is_international(text: str) -> bool:
    return 9 <= len(_digits(text)) <= 15


PASSWORDS = r"password|passwd|pwd|passphrase|密码|口令"
TOKENS = (
    r"secret(?:[_-]?(?:access[_-]?)?key)?|client[_-]?secret|api[_-]?key|apikey|access[_-]?key(?:[_-]?(?:id|secret))?|"
    r"(?:access|auth|refresh|session|id|api|bot)?[_-]?token|密钥|令牌"
)
GIVEN = r"(?:\\?[\"'])?[ \t]*(?:[:=]|：|是|为)[ \t]*(?:\\?[\"'])?"
"""What stands between a name and its value: in prose, in settings, in JSON, in JSON within JSON."""
VALUE = r"[^\s\"'\\,;&<>(){}\[\]\u0080-\uffff]"
SHAPES = (
    r"sk-[\w-]{16,}|hf_[A-Za-z0-9]{16,}|gh[opusr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}|"
    r"(?:AKIA|ASIA)[0-9A-Z]{16}|LTAI[A-Za-z0-9]{12,}|AKID[A-Za-z0-9]{13,}|AIza[\w-]{30,}|eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]+)?"
)
"""Keys whose makers gave them a beginning: OpenAI's kind, Hugging Face, GitHub, GitLab, Slack, AWS, Aliyun, Tencent, Google; JWT."""
EMAIL = r"(?<![\w.%+-])[\w.%+-]{1,128}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62}[A-Za-z0-9])?\.)+[A-Za-z]{2,}"


def _pattern(text: str, flags: int = 0) -> re.Pattern[str]:
    """ASCII: a Chinese character beside an address is no part of it."""
    return re.compile(text, re.ASCII | flags)


FIRST = (
    Rule("secret", _pattern(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)),
    Rule("secret", _pattern(r"(?P<keep>\bauthorization(?:\\?[\"'])?\s*[:=]\s*(?:\\?[\"'])?\w+\s+)[\w.~+/=-]{4,}", re.IGNORECASE)),
    Rule("secret", _pattern(r"(?P<keep>\bbearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE), _is_token),
    Rule("secret", _pattern(rf"(?<![\w-])(?:{SHAPES})")),
    Rule("secret", _pattern(r"(?P<keep>://)[^\s/@:\"'<>]{0,128}:[^\s/@\"'<>]{1,256}(?P<rest>@)")),
    Rule("secret", _pattern(rf"(?P<keep>(?<![A-Za-z])(?:{PASSWORDS}){GIVEN}){VALUE}+", re.IGNORECASE), _is_value),
    Rule("secret", _pattern(rf"(?P<keep>(?<![A-Za-z])(?:{TOKENS}){GIVEN}){VALUE}{{4,}}", re.IGNORECASE), _is_token_value),
    Rule("email", _pattern(EMAIL)),
)
"""Secrets and addresses: looked for in the whole text, because a UUID or a hash may be part of one."""

KEEP = _pattern(
    r"("
    r"\b[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}\b"
    r"|\b(?=[0-9A-Fa-f]*[A-Fa-f])[0-9A-Fa-f]{16,128}\b"
    r"|\b0[xX][0-9A-Fa-f]+\b"
    r"|(?<![A-Za-z])(?i:version|ver\.?|release|v|版本号?|build)[ :=]{0,3}\d+(?:\.\d+){1,5}"
    r"|(?<![\w.-])(?![\w.-]{0,64}(?:ip|addr|host|src|dst|peer|client|server|node|remote))[A-Za-z][\w.-]{0,63}[=~!<>]=\s?\d+(?:\.\d+){1,5}"
    r"|\b(?:Chrome|Chromium|HeadlessChrome|CriOS|Edg|OPR|Firefox|Safari|Version)/\d+(?:\.\d+){1,5}"
    r"|\b[A-Za-z]\w{0,63}-\d+(?:\.\d+){2,5}(?=-(?:py|cp)|\.(?:so|tar|whl|zip|deb|rpm|jar|dist-info)\b|\+)"
    r"|\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?"
    r")"
)
"""UUIDs, hashes and trace ids, hexadecimal numbers, version numbers, times: left alone."""

ALONE, END = r"(?<!\d)(?<!\d\.)", r"(?!\d|\.\d)"
"""Not a part of a longer number, nor of a fraction."""
IPV4 = r"\d{1,3}(?:\.\d{1,3}){3}"
NUMBERS = (
    Rule("ip", _pattern(rf"(?<![\w:.])(?:[0-9A-Fa-f]{{0,4}}:){{2,7}}(?:{IPV4}|[0-9A-Fa-f]{{1,4}}|(?<=::))(?!\w|:[0-9A-Fa-f])"), _is_ipv6),
    Rule("ip", _pattern(rf"(?<![\w.]){IPV4}(?!\w|\.\d)"), _is_ipv4),
    Rule("id", _pattern(rf"{ALONE}\d{{6}}(?P<gap>[ -]?)\d{{8}}(?P=gap)\d{{3}}[\dXx](?![\dA-Za-z])"), _is_identity),
    Rule(
        "card",
        _pattern(
            rf"{ALONE}(?:\d{{13,19}}|\d{{4}}(?P<s>[ -])\d{{4}}(?P=s)\d{{4}}(?P=s)\d{{4}}(?:(?P=s)\d{{1,3}})?"
            rf"|\d{{4}}(?P<t>[ -])\d{{6}}(?P=t)\d{{4,5}}|\d{{6}}[ -]\d{{13}}){END}"
        ),
        _is_card,
    ),
    Rule("mobile", _pattern(rf"(?:(?<!\d)\(?(?:\+|00)86\)?[ -]?|{ALONE})1[3-9]\d(?P<gap>[ -]?)\d{{4}}(?P=gap)\d{{4}}{END}")),
    Rule("phone", _pattern(rf"(?<![\w+])\+[1-9]\d{{0,2}}(?:[ .-]?\(?\d{{1,4}}\)?){{2,6}}{END}"), _is_international),
    Rule("phone", _pattern(rf"{ALONE}\(?0\d{{2,3}}(?:\) ?|-)\d{{7,8}}{END}")),
    Rule("phone", _pattern(r"(?<![\d-])(?:\(\d{3}\) ?|\d{3}-)\d{3}-\d{4}(?![\d-])")),
)
"""Addresses and numbers: looked for in what is left."""
