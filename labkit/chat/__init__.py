"""Talking to an endpoint: the OpenAI client, streaming, reasoning and answer apart, what it serves.

The names that notebooks use, loaded when first touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common import lazy

EXPORTS = {
    "client": "dialogue",
    "Conversation": "dialogue",
    "curl": "dialogue",
    "list_adapters": "served",
    "reasoning_and_answer": "reasoning",
    "resolve_model_name": "served",
    "stream": "dialogue",
}
"""Name -> module that holds it, or is it."""

if TYPE_CHECKING:
    from .dialogue import Conversation as Conversation
    from .dialogue import client as client
    from .dialogue import curl as curl
    from .dialogue import stream as stream
    from .reasoning import reasoning_and_answer as reasoning_and_answer
    from .served import list_adapters as list_adapters
    from .served import resolve_model_name as resolve_model_name

__getattr__, __dir__ = lazy.names(__name__, EXPORTS)
