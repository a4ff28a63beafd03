"""What git-lfs says of its own HTTP answers when it is asked to (GIT_CURL_VERBOSE), read line by line as it runs.

Without it, git-lfs waits for a busy hub for as long as the hub likes and says nothing, and of an answer with an error it prints
"LFS: Error" (3.3.0). Covers: statuses, headers and first words of answers that are errors. git's own trace
(2.39) says the same in other words.
"""

from __future__ import annotations

import re

from .evidence import TOLD_HEADERS, WORDS, Link, without_secrets
from .patience import BUSY

MOST_ANSWERS = 50
MOST_REDIRECTS = 30
"""One after the other, without another answer between them."""
MOST_LOGINS = 3
TRACED = re.compile(r"\d\d:\d\d:\d\d\.\d+ ")


class Trace:
    """Takes lines; keeps `answers` that are errors, the last one first, and `words`, what git-lfs prints besides."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.answers: list[Link] = []
        self.words: list[str] = []
        self._status, self._headers, self._redirects = 0, dict[str, str](), 0

    @property
    def busy(self) -> Link | None:
        """The last answer, if it was busy."""
        return self.answers[0] if self.answers and self.answers[0].status in BUSY else None

    @property
    def circle(self) -> bool:
        """Whether nothing but redirects or refused logins came for long; git-lfs goes on with both for ever."""
        return self._redirects > MOST_REDIRECTS or sum(answer.status == 401 for answer in self.answers) > MOST_LOGINS

    def take(self, line: str) -> bool:
        """Take one line; True when an answer that is an error has been read whole."""
        line = line.rstrip("\r\n")
        if found := re.match(r"< HTTP/[\d.]+ (\d{3})", line):
            self._status, self._headers = int(found[1]), {}
            self._redirects = self._redirects + 1 if 300 <= self._status < 400 else 0
        elif line.startswith("< ") and ":" in line:
            name, _, value = line[2:].partition(":")
            if name.lower() in TOLD_HEADERS:
                self._headers[name.lower()] = value.strip()[:300]
        elif line.rstrip() == "<":
            ended = self._status >= 400 or self.circle
            if ended:
                self.answers.insert(
                    0, Link("Answer", "git", f"HTTP {self._status}", status=self._status, headers=self._headers, host=self.host)
                )
                del self.answers[MOST_ANSWERS:]
            return ended
        elif not line.startswith((">", "<", "{")) and not TRACED.match(line):
            self.words.append(without_secrets(line)[:WORDS])
        return False


def of_git(text: str, host: str) -> tuple[str, Link | None]:
    """What git printed besides its trace, and its last answer if that was an error."""
    status, headers, words = 0, dict[str, str](), []
    for line in text.splitlines(keepends=True):
        if not TRACED.match(line):
            words.append(line)
        elif found := re.search(r"<= Recv header: HTTP/[\d.]+ (\d{3})", line):
            status, headers = int(found[1]), {}
        elif (found := re.search(r"<= Recv header: ([\w-]+): *(.*)", line)) and found[1].lower() in TOLD_HEADERS:
            headers[found[1].lower()] = found[2].strip()[:300]
    answer = Link("Answer", "git", f"HTTP {status}", status=status, headers=headers, host=host) if status >= 400 else None
    return "".join(words), answer
