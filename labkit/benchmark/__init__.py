"""Load on an endpoint and what was measured: sweeps, results, comparisons.

The names that notebooks use, loaded when first touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common import lazy

EXPORTS = {
    "compare": "comparison",
    "measure": "comparison",
    "Measured": "comparison",
    "Sweep": "results",
    "sweep": "sweeps",
}
"""Name -> module that holds it, or is it."""

if TYPE_CHECKING:
    from .comparison import Measured as Measured
    from .comparison import compare as compare
    from .comparison import measure as measure
    from .results import Sweep as Sweep
    from .sweeps import sweep as sweep

__getattr__, __dir__ = lazy.names(__name__, EXPORTS)
