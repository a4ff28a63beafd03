"""The two-round AIOps task: its incidents, and what replies to them are worth, online and offline.

The names that notebooks use, loaded when first touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common import lazy

EXPORTS = {
    "differences": "offline",
    "from_replies": "scores",
    "incidents": "incidents",
    "judge": "scores",
    "offline": "offline",
    "reply_tokens": "windows",
    "Score": "scores",
    "score": "online",
    "table": "scores",
}
"""Name -> module that holds it, or is it."""

if TYPE_CHECKING:
    from . import incidents as incidents
    from . import offline as offline
    from .offline import differences as differences
    from .online import score as score
    from .scores import Score as Score
    from .scores import from_replies as from_replies
    from .scores import judge as judge
    from .scores import table as table
    from .windows import reply_tokens as reply_tokens

__getattr__, __dir__ = lazy.names(__name__, EXPORTS)
