"""A reply in its two parts, reasoning and answer, whichever way a server or a template parts them.

Standard library only: workers in other environments use it too. Used by notebooks 03 to 06.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

OPEN, CLOSE = "<think>", "</think>"
REASONING_FIELDS = ("reasoning", "reasoning_content")
"""What servers call the reasoning: vLLM since 0.12 or so `reasoning`, older vLLM and SGLang `reasoning_content`."""


class Parted(NamedTuple):
    """A reply in its two parts; `reasoning` is "" for a model that does not reason."""

    reasoning: str
    answer: str


def reasoning_and_answer(message: Any) -> Parted:
    """The reasoning and the answer of `message`: an OpenAI message, the same as a dictionary, or plain text.

    Takes the field that the server's reasoning parser filled (`reasoning`, or `reasoning_content`); without one it parts the
    text at </think>, with or without the opening tag, which R1's own template writes into the prompt. A text cut off before
    </think> (max_tokens too small) is all reasoning if it shows the opening tag, and else cannot be told from an answer.
    """
    if isinstance(message, str):
        return part(message)
    content = field_of(message, "content") or ""
    for name in REASONING_FIELDS:
        reasoning = field_of(message, name)
        if reasoning:
            return Parted(str(reasoning).strip(), content.strip())
    return part(content)


def part(text: str) -> Parted:
    before, closed, after = text.partition(CLOSE)
    if closed:
        return Parted(before.strip().removeprefix(OPEN).strip(), after.strip())
    bare = text.strip()
    return Parted(bare.removeprefix(OPEN).strip(), "") if bare.startswith(OPEN) else Parted("", bare)


def field_of(message: Any, name: str) -> Any:
    return message.get(name) if isinstance(message, Mapping) else getattr(message, name, None)
