"""Servers of this machine: start, attach, stages, stop, memory that comes back.

The names that notebooks use, loaded when first touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common import lazy

EXPORTS = {
    "attach": "server",
    "running": "server",
    "serve": "servers",
    "Server": "server",
    "shutdown": "server",
}
"""Name -> module that holds it, or is it."""

if TYPE_CHECKING:
    from .server import Server as Server
    from .server import attach as attach
    from .server import running as running
    from .server import shutdown as shutdown
    from .servers import serve as serve

__getattr__, __dir__ = lazy.names(__name__, EXPORTS)
