"""Models from ModelScope, Hugging Face and git-lfs: sized before, watched while they come, verified after.

The names that notebooks use are in `__init__.pyi`, loaded when first touched.
"""

from ..common import lazy

__getattr__, __dir__ = lazy.names(__name__, __file__)
