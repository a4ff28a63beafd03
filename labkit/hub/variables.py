"""Variables of the reader's environment that would keep a download from working: named before anything is asked.

Covers: proxies that a client cannot use, certificates that are not there, tokens with more in them than a token, numbers that are none.
Does not cover: endpoints (`endpoints`). No value of a token or a password is ever repeated.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path

from ..common.errors import SettingError

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO")
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN")
NUMBERS = ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT")
GIT_S_OWN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE", "GIT_CURL_VERBOSE")
"""Left over from a hook or another repository, they lead git elsewhere."""
SCHEME = re.compile(r"(?i)(http|https|socks[45][ah]?|socks)://")


def check(environment: Mapping[str, str], *, proxy: bool) -> None:
    """Raise `SettingError`, naming the variable, for one with which no client gets anywhere. `proxy`: whether proxies are used."""
    for name in PROXIES if proxy else ():
        if value := environment.get(name):
            _check_proxy(name, value.strip())
    for name in CERTIFICATES:
        if (value := environment.get(name)) and not Path(value).exists():
            raise SettingError(f"{name} names certificates that are not there: {value}", f"unset {name}, or name the right file.")
    for name in TOKENS:
        if (value := environment.get(name)) and not re.fullmatch(r"[\x21-\x7e]*", value.strip()):
            cause = f"{name} has blanks, line ends or signs in it that are in no token."
            raise SettingError(cause, f"Export it again, only the token: export {name}=<token>. A public model needs none: unset {name}")
    for name in NUMBERS:
        if (value := environment.get(name)) and not value.strip().isdigit():
            raise SettingError(f"{name}={value!r} is no whole number of seconds.", f"export {name}=30, or unset {name}")


def _check_proxy(name: str, value: str) -> None:
    scheme = value.partition("://")[0].lower() if "://" in value else ""
    if scheme.startswith("socks"):
        lacks = "" if importlib.util.find_spec("socksio") else " Hugging Face's client also lacks the package socksio for it."
        raise SettingError(
            f"{name}={shown(value)} is a SOCKS proxy, which labkit cannot ask for the file list.{lacks}",
            f"Most such programs have an HTTP port too: export http_proxy=http://HOST:PORT https_proxy=http://HOST:PORT and unset {name}. "
            'Or go without: download(..., proxy=False); source="modelscope" needs none in China.',
        )
    if scheme and not SCHEME.match(value) or not re.fullmatch(r"(?i)(https?://)?([^\s@/]+@)?([\w.\-]+|\[[\da-f:.]+\])(:\d{1,5})?/?", value):
        raise SettingError(f"{name}={shown(value)} is no address of a proxy.", f"export {name}=http://HOST:PORT, or unset {name}")


def shown(address: str) -> str:
    """A proxy's address without name and password."""
    return re.sub(r"//[^/@]*@", "//***@", address) if "//" in address else re.sub(r"^[^/@]*@", "***@", address)


def cleaned(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` for a client: tokens without the blanks around them, and nothing that leads git to another repository."""
    tokens = {name: value.strip() for name in TOKENS if (value := environment.get(name))}
    return {name: value for name, value in {**environment, **tokens}.items() if name not in GIT_S_OWN}
