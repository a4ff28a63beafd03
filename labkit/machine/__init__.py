"""This computer: GPUs, disks and processor, ports, packages, shell settings, the way in from another computer.

The names that notebooks use are in `__init__.pyi`, loaded when first touched.
"""

from ..common import lazy

__getattr__, __dir__ = lazy.names(__name__, __file__)
