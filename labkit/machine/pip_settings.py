"""pip's own configuration, said in the words of uv, which ignores it.

A rented machine's mirror is set in pip's configuration (AutoDL presets one there), and an offline machine names its wheel
folder there. Standard library only: `bootstrap` runs this before any environment exists.

Covers: pip's configuration files and `PIP_*` variables; index, extra indexes, find-links, trusted hosts, certificate, timeout,
proxy, no-index. Does not cover: per-command sections other than [install], keyring, client certificates.
Source of the order of precedence: pip's documentation, "Configuration".
"""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

SECTIONS = ("global", "install")
"""In pip a command's own section wins over [global], whichever file each is in; `PIP_*` variables win over both."""


def pip_configuration(environment: Mapping[str, str] | None = None, files: list[Path] | None = None) -> dict[str, str]:
    """Option name (as in `pip config list`, without the section) -> value as written.

    `files` stands in for the machine's own files, lowest precedence first. A file that cannot be read or parsed is passed
    over: pip itself will complain about it better.
    """
    env = os.environ if environment is None else environment
    sections: dict[str, dict[str, str]] = {name: {} for name in SECTIONS}
    for path in configuration_files(env) if files is None else files:
        for name, options in _read(path).items():
            sections[name].update(options)
    merged = sections["global"] | sections["install"]
    for name, value in env.items():
        if name.startswith("PIP_") and name != "PIP_CONFIG_FILE" and value:
            merged[_option(name[4:])] = value
    return merged


def configuration_files(environment: Mapping[str, str]) -> list[Path]:
    """Where pip looks on Linux and macOS, lowest precedence first: machine, user, this Python's prefix, PIP_CONFIG_FILE."""
    chosen = environment.get("PIP_CONFIG_FILE", "")
    if chosen == os.devnull:
        return []
    home = Path(environment.get("HOME") or Path.home())
    machine = [Path(folder) / "pip" / "pip.conf" for folder in environment.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":") if folder]
    user = Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    prefixes = dict.fromkeys([sys.base_prefix, environment.get("CONDA_PREFIX") or sys.base_prefix, sys.prefix])
    site = [Path(prefix) / "pip.conf" for prefix in prefixes]
    return [*machine, Path("/etc/pip.conf"), home / ".pip" / "pip.conf", user, *site, *([Path(chosen)] if chosen else [])]


def uv_environment(environment: Mapping[str, str] | None = None, files: list[Path] | None = None) -> dict[str, str]:
    """The variables to add for uv so that it asks the same places as pip. A variable that is already set is left alone.

    `UV_INDEX_STRATEGY` is pip's way: the best version of all places, not the first place that knows the name.
    """
    env = os.environ if environment is None else environment
    pip = pip_configuration(env, files)
    variables = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    for option, (names, translate) in TRANSLATIONS.items():
        if pip.get(option):
            variables |= dict.fromkeys(names, translate(pip[option]))
    return {name: value for name, value in variables.items() if value and not env.get(name)}


def uv_arguments(environment: Mapping[str, str] | None = None, files: list[Path] | None = None) -> list[str]:
    """What has no variable in uv: `--no-index`, where pip is told to use wheel folders only."""
    switch = pip_configuration(environment, files).get("no-index", "")
    return ["--no-index"] if switch.lower() in ("1", "true", "yes", "on", "t", "y") else []


def places(environment: Mapping[str, str] | None = None) -> list[str]:
    """The package places in force, in words for a table: the index, then extra indexes, then wheel folders."""
    pip = pip_configuration(environment)
    lists = (pip.get("index-url") or "https://pypi.org/simple", pip.get("extra-index-url", ""), pip.get("find-links", ""))
    return [_without_password(place) for text in lists for place in text.split()]


def _read(path: Path) -> dict[str, dict[str, str]]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, OSError, UnicodeDecodeError):
        return {}
    return {name: {_option(key): value for key, value in parser.items(name)} for name in SECTIONS if parser.has_section(name)}


def _option(name: str) -> str:
    """One spelling for pip's two (`default-timeout` is what `--timeout` stores under)."""
    name = name.lower().replace("_", "-")
    return "timeout" if name == "default-timeout" else name


def _spaced(value: str) -> str:
    return " ".join(value.split())


def _locations(value: str) -> str:
    """uv separates find-links by commas, and does not know `~`."""
    return ",".join(os.path.expanduser(part) for part in value.split())


def _whole_seconds(value: str) -> str:
    """uv wants an integer; what is no number is left to pip to complain about."""
    try:
        return str(round(float(value)))
    except ValueError:
        return ""


def _without_password(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}" if mark else url


TRANSLATIONS: dict[str, tuple[tuple[str, ...], Callable[[str], str]]] = {
    "index-url": (("UV_DEFAULT_INDEX",), str.strip),
    "extra-index-url": (("UV_INDEX",), _spaced),
    "find-links": (("UV_FIND_LINKS",), _locations),
    "trusted-host": (("UV_INSECURE_HOST",), _spaced),
    "cert": (("SSL_CERT_FILE",), str.strip),
    "timeout": (("UV_HTTP_TIMEOUT",), _whole_seconds),
    "proxy": (("HTTP_PROXY", "HTTPS_PROXY"), str.strip),
}
"""pip's option -> uv's variables, and how the value is rewritten."""
