"""labkit: the helper package behind the course notebooks on serving large language models.

The names that the notebooks use, loaded when first touched, so that `import labkit` costs next to nothing and never
brings in an engine. What each does is said where it lives.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

EXPORTS = {
    "LabError": "errors",
    "attach": "engines",
    "profile": "profiles",
    "running": "engines",
    "serve": "engines",
    "shutdown": "engines",
}
"""Name -> module that holds it."""

if TYPE_CHECKING:
    from .errors import LabError as LabError
    from .engines import attach as attach
    from .engines import running as running
    from .engines import serve as serve
    from .engines import shutdown as shutdown


def __getattr__(name: str) -> Any:
    if name not in EXPORTS:
        raise AttributeError(f"labkit has no {name!r}; it has: {', '.join(sorted(EXPORTS))}")
    value = getattr(importlib.import_module(f".{EXPORTS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *EXPORTS})
