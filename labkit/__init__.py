"""labkit: the helper package behind the course notebooks on serving large language models.

The names that the notebooks use, loaded when first touched, so that `import labkit` costs next to nothing and never
brings in an engine. What each does is said where it lives.
"""

from .common import lazy

__version__ = "0.1.0"

__getattr__, __dir__ = lazy.names(__name__, __file__)
