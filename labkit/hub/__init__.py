"""Models from ModelScope, Hugging Face and git-lfs: sized before, watched while they come, verified after.

The names that notebooks use, loaded when first touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common import lazy

EXPORTS = {
    "download": "downloads",
    "download_lines": "downloads",
    "LoopbackHub": "endpoints",
    "open_hub": "endpoints",
    "preview": "downloads",
    "where": "downloads",
}
"""Name -> module that holds it, or is it."""

if TYPE_CHECKING:
    from .downloads import download as download
    from .downloads import download_lines as download_lines
    from .downloads import preview as preview
    from .downloads import where as where
    from .endpoints import LoopbackHub as LoopbackHub
    from .endpoints import open_hub as open_hub

__getattr__, __dir__ = lazy.names(__name__, EXPORTS)
