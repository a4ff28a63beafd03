"""What two Pythons tell each other: JSON that becomes again the dataclass that it was.

One side sends `dataclasses.asdict(message)`, the other makes `parse(Message, content)` of it; each `*_job` module beside this one
holds the messages of one worker. Standard library only: both sides import it.

Covers: dataclasses and named tuples of strings, numbers, dicts, tuples and of each other, each of them or None.
Does not cover: checking the leaves, which are what JSON makes of them.
"""

from __future__ import annotations

import types
from dataclasses import is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Message = TypeVar("Message")


def parse(message: type[Message], content: Any) -> Message:
    """`content`, read from JSON, as the dataclass `message`. Raises `KeyError` for a field that it does not have, `TypeError` for
    one that is missing.
    """
    hints = get_type_hints(message)
    return message(**{name: _value(hints[name], value) for name, value in content.items()})


def _value(hint: Any, content: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return None if content is None else _value(arguments[0], content)
    if origin is tuple:
        return tuple(_value(arguments[0], item) for item in content)
    if is_dataclass(hint):
        return parse(hint, content)  # type: ignore[arg-type]
    return hint(*content) if hasattr(hint, "_fields") else content
