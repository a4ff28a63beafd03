"""Between clients and servers: who gets which adapter, and a masked log of who asked what.

The names that notebooks use, loaded when first touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common import lazy

EXPORTS = {
    "Audit": "audit",
    "mask": "masking",
    "TenantRouter": "tenants",
}
"""Name -> module that holds it, or is it."""

if TYPE_CHECKING:
    from .audit import Audit as Audit
    from .masking import mask as mask
    from .tenants import TenantRouter as TenantRouter

__getattr__, __dir__ = lazy.names(__name__, EXPORTS)
