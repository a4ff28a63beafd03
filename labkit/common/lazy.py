"""Names of a package that are loaded when they are first touched, so that importing it costs next to nothing. Standard library only.

A package's `__init__.pyi` is its list: one line for each name, `from .module import name as name`, or `from . import module as module`.
The type checker reads it as it is, and this module reads it when a name is touched, so that there is one list and not two.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

LINE = re.compile(r"^from (\.+)([\w.]*) import (\w+) as \w+$", re.MULTILINE)


def names(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for `package` (PEP 562), whose `__init__.py` is `file`.

    The caller assigns both at the top of its module. A name that is not there raises AttributeError with those that are.
    """

    def get(name: str) -> Any:
        if name not in (exports := _exports(file)):
            raise AttributeError(f"{package} has no {name!r}; it has: {', '.join(sorted(exports))}")
        dots, module = exports[name]
        found = importlib.import_module(f"{dots}{module or name}", package)
        value = getattr(found, name) if module else found
        setattr(sys.modules[package], name, value)
        return value

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *_exports(file)})

    return get, listed


@cache
def _exports(file: str) -> dict[str, tuple[str, str]]:
    """Name -> (dots, module that holds it; "" where it is a module itself)."""
    text = Path(file).with_suffix(".pyi").read_text(encoding="utf-8")
    return {name: (dots, module) for dots, module, name in LINE.findall(text)}
