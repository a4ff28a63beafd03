"""Between clients and servers: who gets which adapter, and a masked log of who asked what.

The names that notebooks use are in `__init__.pyi`, loaded when first touched.
"""

from ..common import lazy

__getattr__, __dir__ = lazy.names(__name__, __file__)
