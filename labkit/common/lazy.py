"""Names of a package that are loaded when they are first touched, so that importing it costs next to nothing. Standard library only."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def names(package: str, exports: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for `package` (PEP 562), where `exports` says which module holds each name, or is it.

    The caller assigns both at the top of its module, and repeats the imports under TYPE_CHECKING. A name that is not there raises
    AttributeError with those that are.
    """

    def get(name: str) -> Any:
        if name not in exports:
            raise AttributeError(f"{package} has no {name!r}; it has: {', '.join(sorted(exports))}")
        module = importlib.import_module(exports[name] if exports[name].startswith("..") else f".{exports[name]}", package)
        value = module if exports[name] == name else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *exports})

    return get, listed
