"""Python environments of engines and tools, made from pinned lists.

The names that notebooks use, loaded when first touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common import lazy

EXPORTS = {
    "install": "environments",
    "present": "environments",
    "python": "environments",
    "Runtime": "environments",
    "runtime_list": "environments",
}
"""Name -> module that holds it, or is it."""

if TYPE_CHECKING:
    from .environments import Runtime as Runtime
    from .environments import install as install
    from .environments import present as present
    from .environments import python as python
    from .environments import runtime_list as runtime_list

__getattr__, __dir__ = lazy.names(__name__, EXPORTS)
