"""Nothing, in place of ray: labkit puts it into the environment that converts VERL's checkpoints, and nowhere else.

VERL imports ray in every process (verl/protocol.py), but merging a checkpoint starts no cluster: ray would be a fifth of the
environment and never called. A class that is only named in a type is here; whatever else is asked of it says so.
"""

from typing import NoReturn

__version__ = "0"


class ObjectRef:
    """Named by verl/protocol.py in types."""


def __getattr__(name: str) -> NoReturn:
    raise AttributeError(f"ray.{name}: this environment of labkit's only converts checkpoints; its ray is an empty stand-in")
