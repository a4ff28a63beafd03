"""The two-round AIOps task: its incidents, and what replies to them are worth, online and offline.

The names that notebooks use are in `__init__.pyi`, loaded when first touched.
"""

from ..common import lazy

__getattr__, __dir__ = lazy.names(__name__, __file__)
