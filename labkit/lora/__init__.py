"""LoRA adapters: check one against its base, merge it in little memory, prove the merge, keep the stable version.

The names that notebook 06 uses, loaded when first touched, as in `labkit` itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import lazy

EXPORTS = {
    "Adapter": "adapters",
    "check": "checks",
    "compare": "comparing",
    "current": "versions",
    "difference": "units",
    "history": "versions",
    "merge": "merging",
    "promote": "versions",
    "rollback": "versions",
}
"""Name -> module that holds it."""

if TYPE_CHECKING:
    from .adapters import Adapter as Adapter
    from .checks import check as check
    from .comparing import compare as compare
    from .merging import merge as merge
    from .units import difference as difference
    from .versions import current as current
    from .versions import history as history
    from .versions import promote as promote
    from .versions import rollback as rollback

__getattr__, __dir__ = lazy.names(__name__, EXPORTS)
