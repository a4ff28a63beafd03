"""The course as a whole: doctor, notebooks run headless, the tests by tier.

The names that notebooks use, loaded when first touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common import lazy

EXPORTS = {
    "doctor": "checkup",
}
"""Name -> module that holds it, or is it."""

if TYPE_CHECKING:
    from .checkup import doctor as doctor

__getattr__, __dir__ = lazy.names(__name__, EXPORTS)
