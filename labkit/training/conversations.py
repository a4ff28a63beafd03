"""What an adapter learns from: conversations, each a list of {"role", "content"}, and whether a tool can learn from them.

Covers: the type, the checks of `finetune` and `llamafactory`. Does not cover: making them (`evaluation.incidents`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..common.errors import SettingError

Messages = Sequence[Mapping[str, str]]
"""One conversation."""
ROLES = ("system", "user", "assistant")
FORM = 'Messages are {"role": "user", "content": "..."}.'


def copied(conversations: Sequence[Messages]) -> list[list[dict[str, str]]]:
    """The same as plain lists of dicts, which JSON can hold."""
    return [[dict(message) for message in messages] for messages in conversations]


def require_replies(conversations: Sequence[Messages]) -> None:
    """Raise `SettingError` unless there is a conversation and each ends with a reply of the assistant's."""
    _require_some(conversations)
    for number, messages in enumerate(conversations):
        wrong = [message for message in messages if message.get("role") not in ROLES or not isinstance(message.get("content"), str)]
        if wrong or len(messages) < 2 or messages[-1]["role"] != "assistant":
            what = f"its message {dict(wrong[0])!r} has no role and content" if wrong else "its last message is not the assistant's reply"
            raise SettingError(f"Conversation {number} cannot be learnt: {what}.", FORM)


def require_turns(conversations: Sequence[Messages]) -> None:
    """Raise `SettingError` unless user and assistant take turns, after one system message at the most.

    LLaMA-Factory leaves out, with one line in its log, a conversation in any other order.
    """
    _require_some(conversations)
    for number, messages in enumerate(conversations):
        roles = [str(message.get("role")) for message in messages]
        turns = roles[1:] if roles[:1] == ["system"] else roles
        if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
            raise SettingError(
                f"Conversation {number} has the roles {', '.join(roles) or '(none)'}.",
                "Give at most one system message, at the start, and then user and assistant in turn.",
            )
        if not all(isinstance(message.get("content"), str) for message in messages):
            raise SettingError(f"Conversation {number} has a message without text.", FORM)


def _require_some(conversations: Sequence[Messages]) -> None:
    if not conversations:
        raise SettingError("There are no conversations to learn from.", "Give a list of conversations, each a list of messages.")
