"""This computer: GPUs, disks and processor, ports, packages, shell settings, the way in from another computer.

The names that notebooks use, loaded when first touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common import lazy

EXPORTS = {
    "Device": "gpu",
    "devices": "gpu",
    "gpu": "gpu",
    "shell": "shell",
}
"""Name -> module that holds it, or is it."""

if TYPE_CHECKING:
    from . import gpu as gpu
    from . import shell as shell
    from .gpu import Device as Device
    from .gpu import devices as devices

__getattr__, __dir__ = lazy.names(__name__, EXPORTS)
