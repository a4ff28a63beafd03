"""Python's tracebacks in a log: each exception with its whole message, and the chain that it belongs to.

    chains(records(text))   -> [Chain((Raised("FileNotFoundError", "[Errno 2] ..."), Raised("RuntimeError", "..."))), ...]

Covers chains ("direct cause", "During handling"), exception groups, tracebacks that carry a log's prefix on every line, that come out of
another process in Ray's or multiprocessing's wrapping, that begin amid a line, whose head was cut off, and exceptions of which only the
last line is there. A frame says where an exception was raised, never what it was. Does not cover which of them ended a process (`roots`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache

from .records import GROUP, LogLine

HEADER = "Traceback (most recent call last)"
LINKS = {
    "The above exception was the direct cause of the following exception": "cause",
    "During handling of the above exception, another exception occurred": "context",
}
FRAME = re.compile(r'[ >]*File "([^"\n]+)"(?:, line (\d+))?(?:, in (.+))?')
_NAME = r"(?P<type>[A-Za-z_]\w*(?:\.\w+)*)(?:\((?P<inner>[\w.]+)\))?"
RAISED = re.compile(_NAME + r"(?::(?: (?P<message>.*)|$)|$)")
"""The last line of a traceback."""
ALONE = re.compile(
    r"(?P<type>(?:[A-Za-z_]\w*\.)*_?[A-Z]\w*(?:Error|Exception|Expired|Interrupt|SystemExit|RemoteTraceback|Revision\w*))"
    r"(?:\((?P<inner>[\w.]+)\))?(?::(?: (?P<message>.*)|$)|$)"
)
"""The same without a traceback before it: only names that are an exception's beyond doubt."""
IGNORED = ("Exception ignored in", "Exception in thread", "Exception in callback", "Future exception was never retrieved")
CUT_OFF = "CutOff"
"""The type of an exception that is not told, because the log ends in its traceback."""
MOST = 2000
"""Exceptions without a traceback that are kept of one process, beside the last one."""
LONGEST = 400
"""Lines of a message."""
QUIET = frozenset(["DEBUG", "INFO", "WARNING"])
PACKAGES = re.compile(r"^.*(?:(?:site|dist)-packages|lib/python3\.\d+|sgl-workspace/sglang/python)/")
STRAY = re.compile(
    r"SIGQUIT received|Received sigquit|\S+\.py:\d+: \w*Warning:|nanobind: |\[rank\d+\]:|/usr/.*resource_tracker\.py"
    r"|Open an issue on GitHub |\*{5,}"
)


@dataclass
class Raised:
    """An exception as a log tells it. `type` is the class with its module, `frames` its files and functions, the last one raised it."""

    type: str
    message: str
    number: int
    line: str
    level: str = ""
    frames: list[tuple[str, str]] = field(default_factory=list)
    source: str = ""
    """The statement that raised it, where it is shown."""
    link: str = ""
    """How the one before it in its chain led to it: cause, context, or "" of the first."""

    @property
    def name(self) -> str:
        return self.type.rpartition(".")[2]

    @property
    def function(self) -> str:
        """The function that raised it, "" where that is not told."""
        return self.frames[-1][1] if self.frames else ""

    @property
    def words(self) -> str:
        """Its class and its whole message; of one without a message the statement that raised it."""
        return f"{self.name}: {self.message or self.source}" if self.name else self.message

    @property
    def module(self) -> str:
        """The dotted module of the frame that raised it, else that of its class; "" where neither is told."""
        return _dotted(self.frames[-1][0]) if self.frames else self.type.rpartition(".")[0]

    @property
    def modules(self) -> set[str]:
        """The dotted modules of all its frames."""
        return {_dotted(path) for path, _ in self.frames}


@lru_cache(maxsize=4096)
def _dotted(path: str) -> str:
    return PACKAGES.sub("", path.replace("\\", "/")).removesuffix(".py").removesuffix("/__init__").strip("/.").replace("/", ".")


@dataclass
class Chain:
    """Exceptions that led to each other, the first one first. `aside`: Python itself says that nobody was waiting for it."""

    process: str
    stamp: str
    raised: list[Raised] = field(default_factory=list)
    aside: bool = False
    traceback: bool = False
    frames: list[tuple[str, str]] = field(default_factory=list)
    source: str = ""
    link: str = ""


LIVED, WITNESS, WRAPPER, QUIETLY = 3, 4, 5, 6
"""Ranks of what is no cause, or hardly: see `Root`. A witness is told of only if it is known; what is said quietly is not told of."""


@dataclass(frozen=True)
class Root:
    """An exception that ended a process. `rank` is 0 for a cause, 1 for a consequence, 2 for a mere line, 3 where its process lived on.

    `chain` has all exceptions that led to each other, without wrappers; `raised` is the one of them that says why. `beside` is what
    compilers, NCCL and torch's own look at the GPUs wrote besides; `since` the line with which its start begins.
    """

    raised: Raised
    chain: tuple[Raised, ...]
    process: str
    stamp: str
    rank: int
    beside: str = ""
    since: int = 0

    @property
    def number(self) -> int:
        return self.raised.number


def chains(lines: Iterable[LogLine]) -> list[Chain]:
    """Every exception that the lines of one process tell, in chains, in order."""
    reader = _Reader()
    for line in lines:
        if reader.state != "outside" or (line.level not in QUIET and _tells(line.text)):
            reader.take(line)
        elif line.stamp:
            reader.stamp, reader.before = line.stamp, ""
    if reader.state == "frames" and not reader.chains[-1].raised and reader.chains[-1].frames:
        reader.chains[-1].raised.append(Raised(CUT_OFF, "", reader.number, HEADER, frames=reader.chains[-1].frames))
    found = [chain for chain in reader.chains if chain.raised]
    for raised in (raised for chain in found for raised in chain.raised):
        raised.message = raised.message.strip().removesuffix('"""').removeprefix('"""').strip()
    return found


def _tells(text: str) -> bool:
    """Whether a line may belong to an exception: a look that costs next to nothing."""
    return "rror" in text or "xception" in text or 'File "' in text or "Traceback" in text or "Expired" in text or "Interrupt" in text


class _Reader:
    """Goes through one process's lines. `state` is what the next line is read as: outside, frames, message or link."""

    def __init__(self) -> None:
        self.chains: list[Chain] = []
        self.state = "outside"
        self.stamp, self.number = "", 0
        self.before = ""
        self.head = ("", "")
        self.level = ""
        self.flat = False  # whether the blanks before each line were lost

    def take(self, line: LogLine) -> None:
        self.stamp, self.number = line.stamp or self.stamp, line.number
        self.level = line.level
        text = line.text
        if text[:1] == " " and (text.lstrip()[:1] in ("|", "+")):
            text = GROUP.sub("", text)
        if line.begins:
            self.state = "outside"
        if HEADER in text:
            self._begin(line, text)
        elif self.state == "frames":
            self._frame(line, text)
        elif self.state == "message":
            self._message(line, text)
        elif self.state == "link":
            if text.strip():
                self.state = "outside"
                self._outside(line, text)
        else:
            self._outside(line, text)
        if text.strip():
            self.before = text

    def _begin(self, line: LogLine, text: str) -> None:
        within = self.state in ("link", "message") and self.chains and self.chains[-1].raised
        remote = within and self.state == "message" and _carries(self.chains[-1].raised[-1])
        if not (self.state == "link" or remote):
            self.chains.append(Chain(line.process, self.stamp, traceback=True))
        chain = self.chains[-1]
        chain.aside = chain.aside or self.before.startswith(IGNORED)
        chain.frames, chain.source = [], ""
        chain.link = "remote" if remote else chain.link if within else ""
        chain.traceback = True
        self._enter_frames(line)

    def _enter_frames(self, line: LogLine) -> None:
        self.state, self.head = "frames", (line.level, line.head if not line.begins else "")

    def _frame(self, line: LogLine, text: str) -> None:
        if found := FRAME.match(text):
            self.chains[-1].frames.append((found[1], found[3] or ""))
            self.chains[-1].source = ""
            self.flat = text[:1] == "F"
        elif self.flat and not self.chains[-1].source and not ALONE.fullmatch(text):
            self.chains[-1].source = text.strip()
        elif text[:1].strip() and (found := RAISED.fullmatch(text)):
            self._raised(line, text, found)
        elif text.startswith("    ") and not self.chains[-1].source and text.strip("~^ "):
            self.chains[-1].source = text.strip()
        # else its marks, more of it, or another writer's line

    def _raised(self, line: LogLine, text: str, found: re.Match[str]) -> None:
        chain = self.chains[-1]
        message = found["message"] or ""
        frames, source, link = chain.frames, chain.source, chain.link
        chain.raised.append(Raised(found["type"], message, line.number, text.strip(), self.level, frames, source, link))
        chain.stamp, chain.frames, chain.source, chain.link = self.stamp, [], "", ""
        self.state, self.head = "message", (line.level, line.head if not line.begins else "")

    def _message(self, line: LogLine, text: str) -> None:
        chain = self.chains[-1]
        raised = chain.raised[-1]
        if (link := LINKS.get(text.strip().rstrip(":"))) is not None:
            chain.link, self.state = link, "link"
        elif FRAME.match(text) and _carries(raised):
            chain.frames, chain.link, self.state = [], "remote", "frames"
            self._frame(line, text)
        elif (line.level, line.head) != self.head or STRAY.match(text) or raised.message.count("\n") >= LONGEST or ALONE.fullmatch(text):
            self.state = "outside"
            self._outside(line, text)
        else:
            raised.message += "\n" + text

    def _outside(self, line: LogLine, text: str) -> None:
        if (link := LINKS.get(text.strip().rstrip(":"))) is not None and self.chains:
            self.chains[-1].link, self.state = link, "link"
            return
        if FRAME.match(text) and not text.lstrip().startswith(">") and line.level not in QUIET:
            self.chains.append(Chain(line.process, self.stamp, traceback=True))
            self._enter_frames(line)
            self._frame(line, text)
        elif text[:1].strip() and (found := ALONE.fullmatch(text)):
            if self.chains and self.chains[-1].raised and self.chains[-1].raised[-1].line == text.strip():
                return  # the same again
            if len(self.chains) > MOST and not self.chains[-1].traceback:
                self.chains.pop()
            self.chains.append(Chain(line.process, self.stamp, aside=self.before.startswith(IGNORED)))
            self._raised(line, text, found)


def _carries(raised: Raised) -> bool:
    """Whether an exception's message is another process's traceback."""
    return (
        raised.name
        in ("RemoteTraceback", "_RemoteTraceback", "ProcessRaisedException", "RayTaskError", "ExceptionGroup", "BaseExceptionGroup")
        or HEADER in raised.message
    )


PYDANTIC = re.compile(r"(\d+) validation errors? for (\w+)")
BODY = re.compile(r"^ {2}(?! )(?P<body>.+?)(?: \[type=\w+, input_value=.*)?$")


def plain(raised: Raised) -> Raised:
    """An exception itself; of pydantic's the message that it is about, with the settings that it names."""
    if not (PYDANTIC.match(raised.message) and "Validation" in raised.type):
        return raised
    kind, parts, place = raised.type, [], ""
    for line in raised.message.splitlines()[1:]:
        if line[:1].strip():
            place = line.strip()
        elif match := BODY.match(line):
            body = match["body"]
            for words, name in (("Value error, ", "ValueError"), ("Assertion failed, ", "AssertionError")):
                if body.startswith(words):
                    body, kind = body.removeprefix(words), name
            parts.append(f"{place}: {body}" if place else body)
        elif not line.lstrip().startswith("For further information"):
            parts.append(line.strip())
    return replace(raised, type=kind, message="\n".join(parts) or raised.message)
