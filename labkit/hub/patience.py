"""How long a busy hub is waited for: what it asks for in its answer, and a limit over everything that one download asks.

Covers: HTTP 429 and 5xx, `Retry-After` in both its forms, Hugging Face's `RateLimit`. Does not cover: who asks (`listings`, `witness`).
Sources: RFC 9110 section 10.2.3; huggingface_hub 2.4.0 `utils._http.parse_ratelimit_headers`. Standard library only.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from threading import Lock

BUSY = (408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529)
"""Statuses that pass by themselves; from 520 on they are those of proxies in front of a hub."""
TOO_MANY = (425, 429, 503, 529)
WAIT_SECONDS = 300.0
"""How long one download waits for busy answers, all together. Hugging Face counts requests by windows of 300 s."""
TRIES = 6
"""How often one address is asked that answers busy."""
FIRST_PAUSE, LONGEST_PAUSE, SHORTEST_PAUSE = 1.0, 16.0, 0.5


class Patience:
    """The waiting of one download. `say` gets a sentence for each wait; threads that wait at once count once."""

    def __init__(self, seconds: float | None = None, say: Callable[[str], None] = print) -> None:
        self.seconds, self.say = WAIT_SECONDS if seconds is None else seconds, say
        self.spent = 0.0
        self._until = 0.0
        self._lock = Lock()

    @property
    def left(self) -> float:
        """Seconds that may still be waited."""
        return max(0.0, self.seconds - self.spent)

    def wait(self, host: str, status: int, headers: Mapping[str, str], tried: int) -> bool:
        """Wait as `host` asks after `tried` answers with `status`; False, without waiting, where that is too long or too often."""
        asked = asked_pause(headers)
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (tried - 1)) if asked is None else max(SHORTEST_PAUSE, asked)
        if tried >= TRIES:
            return False
        with self._lock:
            now = time.monotonic()
            added = max(0.0, now + pause - max(now, self._until))
            if added > self.left:
                return False
            self.spent += added
            self._until = max(self._until, now + pause)
        if added:
            wish = ", as it asks" if asked is not None else ""
            how = "is busy" if status in TOO_MANY else "is in trouble"
            self.say(f"{host} {how} (HTTP {status}): waiting {span(max(1.0, pause))}{wish}, then asking again.")
        time.sleep(pause)
        return True


def asked_pause(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to wait: `Retry-After` as seconds or as a date, or `RateLimit` of Hugging Face; None for neither."""
    low = {name.lower(): value for name, value in headers.items()}
    asked = low.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", asked):
        return float(asked)
    if asked:
        try:
            return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time())
        except ValueError:
            return None
    window = re.search(r"\br=0\b.*?\bt=(\d+)", low.get("ratelimit", ""))
    return float(window[1]) if window else None


def span(seconds: float) -> str:
    """A length of time as people say it."""
    for unit, length, most in (("s", 1, 90), ("min", 60, 120), ("h", 3600, 48), ("days", 86400, 400)):
        if seconds < most * length:
            return f"{seconds / length:.0f} {unit}"
    return "more than a year"
