"""Open-WebUI, the chat page: started, connected to the engines that run, proven.

The names that notebooks use, loaded when first touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common import lazy

EXPORTS = {
    "attach": "page",
    "reset_password": "page",
    "serve": "page",
    "WebUI": "page",
}
"""Name -> module that holds it, or is it."""

if TYPE_CHECKING:
    from .page import WebUI as WebUI
    from .page import attach as attach
    from .page import reset_password as reset_password
    from .page import serve as serve

__getattr__, __dir__ = lazy.names(__name__, EXPORTS)
