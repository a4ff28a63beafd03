"""LoRA adapters: check one against its base, merge it in little memory, prove the merge.

The names that notebooks use, loaded when first touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common import lazy

EXPORTS = {
    "Adapter": "..models.adapter",
    "check": "checks",
    "compare": "comparing",
    "difference": "ulps",
    "merge": "merging",
}
"""Name -> module that holds it, or is it."""

if TYPE_CHECKING:
    from ..models.adapter import Adapter as Adapter
    from .checks import check as check
    from .comparing import compare as compare
    from .merging import merge as merge
    from .ulps import difference as difference

__getattr__, __dir__ = lazy.names(__name__, EXPORTS)
