"""What the machine and a server say while they run: metrics, recordings, the live view.

The names that notebooks use, loaded when first touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common import lazy

EXPORTS = {
    "read_metrics": "metrics",
    "Recording": "recording",
    "Sampler": "sampler",
    "watch": "live",
}
"""Name -> module that holds it, or is it."""

if TYPE_CHECKING:
    from .live import watch as watch
    from .metrics import read_metrics as read_metrics
    from .recording import Recording as Recording
    from .sampler import Sampler as Sampler

__getattr__, __dir__ = lazy.names(__name__, EXPORTS)
