"""The key of each server: random, in a file that only its owner may read, never printed. One key a server name.

An engine takes it from its environment, or from a YAML file of its own where it knows no variable (SGLang).
"""

from __future__ import annotations

import secrets
from pathlib import Path

from ..common.files import PRIVATE, write_once, write_text
from ..common.settings import Settings, settings
from ..engines.engine import Engine


def key_file(name: str, config: Settings | None = None) -> Path:
    """Where the key of server `name` lies: a 0600 file, made by `key`."""
    return (config or settings()).state / "keys" / f"{name}.key"


def key(name: str, config: Settings | None = None) -> str:
    """The key of server `name`, made at first use from 32 random bytes."""
    return write_once(key_file(name, config), f"sk-{secrets.token_urlsafe(32)}").strip()


def key_argv(engine: Engine, name: str, config: Settings | None = None) -> list[str]:
    """The flag of the file that holds the key, for an engine that takes it from no variable; the file is written here."""
    if not engine.key_flag:
        return []
    path = key_file(name, config).with_suffix(".yaml")
    text = f"api-key: {key(name, config)}\n"
    if not path.exists() or path.read_text() != text:
        write_text(path, text, mode=PRIVATE)
    return [f"--{engine.key_flag}", str(path)]


def key_environment(engine: Engine, name: str, config: Settings | None = None) -> dict[str, str]:
    """The variable that holds the key, for an engine that takes it from one."""
    return {engine.key_variable: key(name, config)} if engine.key_variable else {}
