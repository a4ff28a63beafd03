"""Talking to an endpoint: the OpenAI client, streaming, reasoning and answer apart, what it serves.

The names that notebooks use are in `__init__.pyi`, loaded when first touched.
"""

from ..common import lazy

__getattr__, __dir__ = lazy.names(__name__, __file__)
