"""How many tokens a reply may take: from the window that a server or a model folder has. Used by notebook 06 through `score`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..chat import served
from ..common.errors import SettingError

if TYPE_CHECKING:
    from ..engines.endpoint import Endpoint


SHORT_WINDOW, SHORT_REPLY, LONG_REPLY = 4096, 256, 4096
"""Tokens: up to this window a model is a small one that thinks in a sentence; R1-style 8B models think for a thousand and more."""
SHARE_OF_WINDOW = 4
"""A reply may take this part of the window at most: two of them and the prompts have to fit."""


def reply_tokens(model: Endpoint | str | Path) -> int:
    """How many tokens a reply of `model` (a server, or a model folder) may take where nobody says.

    256 for a window up to 4,096 tokens, as the course model has; else 4,096, or a quarter of the window if that is less. An
    R1-style 8B model needs it: cut off while it thinks, it has not answered. Raises `SettingError` for a folder without config,
    and what `served_window` raises.
    """
    window = folder_window(Path(model)) if isinstance(model, str | Path) else served_window(model, model.model)
    return tokens_in(window)


def served_window(server: Endpoint, model: str) -> int:
    """Tokens that fit what the server serves as `model`, as it says itself; its own model's where an adapter has no number.

    Raises `NotRunning`, `AdapterError` (it does not say what it serves).
    """
    windows = {card["id"]: card.get("max_model_len") for card in served.model_cards(server)}
    return int(windows.get(model) or windows.get(server.model) or SHORT_WINDOW)


def folder_window(folder: Path) -> int:
    """Tokens that fit the model in `folder`, by its config. Raises `SettingError` for a folder that does not say."""
    try:
        return int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingError(f"{folder / 'config.json'} does not say how long a text may be: {error}.", "Give a model's folder.") from error


def tokens_in(window: int) -> int:
    """Tokens of a reply where `window` tokens fit."""
    return min(SHORT_REPLY if window <= SHORT_WINDOW else LONG_REPLY, max(1, window // SHARE_OF_WINDOW))
