"""Which exception ended a start: the root, of the process that failed first.

    find(text)   -> [Root, ...], the most likely one first; [] where the log tells of no failure

Left out: wrappers, which only say that something failed elsewhere; exceptions in INFO and WARNING lines; those after which their process
went on working. Last come consequences, which one process suffers because another failed. Does not cover what an exception means
(`catalogue`, `verdicts`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from . import deaths
from .phases import ready
from .records import Record, records
from .tracebacks import QUIET, Chain, Raised, chains

WRAPPERS = re.compile(
    r"(?:vLLM )?Engine core (?:initialization|proc\S*) (?:failed|died)|Engine core proc \S+ died|EngineCore (?:encountered an issue|failed to start)"
    r"|(?:WorkerProc|Worker proc\S*|Worker) initialization failed due to an exception|Engine process (?:failed to start|\(?PID)"
    r"|Engine loop (?:has died|is not running)|Background loop (?:has errored already|is stopped)|See (?:root cause|stack trace)"
    r"|Worker failed with error|Scheduler hit an exception|(?:TokenizerManager|DetokenizerManager|Subprocess) hit an exception"
    r"|Initialization failed\. (?:Please see|warmup error)|Initialization failed\. Please|Child process unexpectedly failed|Failed core proc"
    r"|Rank \d+ scheduler (?:is dead|died)|Data parallel controller|Executor failed|Worker \S+ died|EngineDead|Process 0 terminated with"
    r"|Received (?:sigquit|SIGQUIT)|SIGQUIT received|Application startup failed|Task exception was never retrieved|EngineGenerateError",
)
"""What a wrapper's message begins with, more or less."""
WRAPPER_TYPES = frozenset(
    ["EngineDeadError", "EngineGenerateError", "MQEngineDeadError", "AsyncEngineDeadError", "RemoteTraceback", "_RemoteTraceback"]
    + ["ProcessRaisedException", "RayTaskError", "ExceptionGroup", "BaseExceptionGroup", "CancelledError", "SystemExit", "Exit"]
)
CARRIES = re.compile(r"(?:Worker failed with error|Engine core initialization failed[^\n]*?:) ?'(?P<inner>.+)', please check the stack trace", re.DOTALL)
"""A wrapper that repeats what it is about."""
CONSEQUENCES = re.compile(
    r"(?:Broken pipe|Connection (?:reset|closed) by (?:remote )?peer|.*Connection reset by peer|.*remote process exited or there was a network error"
    r"|.*Socket Timeout|.*recvValue failed|.*Failed to recv, got 0 bytes|.*TCPStore|.*wait timeout after|cannot schedule new futures"
    r"|.*the store was closed|.*[Ss]hutting down|.*event loop is closed|\[Errno (?:32|104)\])"
)
CONSEQUENCE_TYPES = frozenset(
    ["BrokenPipeError", "ConnectionResetError", "EOFError", "KeyboardInterrupt", "ActorDiedError", "RayActorError", "ProcessExitedException"]
    + ["WorkerCrashedError"]
)
OUTWARD = re.compile(r"NCCL|Ninja build failed|returned non-zero exit status|Error building extension|CppCompileError|C\+\+ compile error|gcc|nvcc", re.I)
"""Messages that say that another program failed: its own lines say why."""
ENDING = re.compile(
    r"shut(?:ting)?.?down|terminat|kill|exit|clean|sigquit|signal|fail|error|exception|dump|stopp|died|dead|closed|leak|destroy|abort|cancel|raise"
    r"|waiting|retry|\bsee\b|usage|traceback",
    re.IGNORECASE,
)
"""Words of INFO lines that a dying process may write too."""
TRIVIAL = frozenset(["KeyError", "AttributeError", "IndexError", "StopIteration", "Empty", "LookupError"])
"""What is looked up first and then made or refused: while it is handled the real failure comes."""


@dataclass(frozen=True)
class Root:
    """An exception that ended a process. `message` is its own, whole; `beside` what compilers and NCCL wrote besides.

    `before` are those that came before or after it in its chain, in which its words may stand too.
    """

    type: str
    message: str
    module: str
    line: str
    number: int
    process: str
    stamp: str
    frames: tuple[tuple[str, str], ...]
    rank: int
    beside: str = ""
    chain: tuple[Raised, ...] = ()

    @property
    def name(self) -> str:
        return self.type.rpartition(".")[2]


def find(text: str) -> list[Root]:
    """Every failure that ended a process, the most likely cause of all others first."""
    return of(records(text))


def of(lines: list[Record]) -> list[Root]:
    """The same of lines that are read already."""
    by_process: dict[str, list[Record]] = defaultdict(list)
    for line in lines:
        by_process[line.process].append(line)
    roots: list[Root] = []
    wrapped = False
    for own in by_process.values():
        found = sorted([*chains(own), *deaths.deaths(own)], key=lambda chain: chain.raised[-1].number)
        lived = _last_life(own, found[0].raised[0].number if found else 0)
        for chain in found:
            root = _root(chain)
            wrapped = wrapped or root is None
            if root is not None:
                roots.append(_ranked(root, chain, lived))
    served = (not roots or any(root.rank == 3 for root in roots)) and ready(lines)
    if served and not (wrapped or any(WRAPPERS.match(line.text) for line in lines if line.level not in QUIET)):
        roots = [root for root in roots if root.rank < 3]
    roots = _one_a_process(roots)
    roots.sort(key=lambda root: (root.rank, root.stamp or "~", root.number))
    if not roots:
        return [] if served else _error_lines(lines)
    return [_with_details(root, lines) for root in roots]


def _root(chain: Chain) -> Root | None:
    """The exception of a chain that says why: the deepest, less wrappers and less what was only looked up. None of wrappers alone."""
    telling = [raised for raised in chain.raised if not _wraps(raised) and raised.level not in QUIET]
    if not telling:
        carried = next((match for raised in chain.raised if raised.level not in QUIET and (match := CARRIES.search(raised.message))), None)
        if carried is None:
            return None
        last = chain.raised[-1]
        telling = [Raised("", carried["inner"].replace("\\n", "\n"), last.number, last.line, last.level)]
        return _made(telling[0], telling, chain, 1)
    chosen = telling[-1]
    for earlier, later in zip(reversed(telling[:-1]), reversed(telling[1:]), strict=True):
        if later.link == "context" and earlier.name in TRIVIAL and earlier.message not in later.message:
            break
        chosen = earlier
    if any(raised.link == "remote" for raised in telling):
        chosen = telling[-1]
    return _made(chosen, telling, chain, 0)


def _made(raised: Raised, telling: list[Raised], chain: Chain, rank: int) -> Root:
    kind, message = unwrapped(raised)
    frames = tuple(raised.frames)
    return Root(kind, message, raised.module, raised.line, raised.number, chain.process, chain.stamp, frames, rank, chain=tuple(telling))


def _wraps(raised: Raised) -> bool:
    return raised.name in WRAPPER_TYPES or WRAPPERS.match(raised.message) is not None or "See root cause above" in raised.message


def _ranked(root: Root, chain: Chain, lived: int) -> Root:
    rank = root.rank
    if chain.aside or root.name in CONSEQUENCE_TYPES or CONSEQUENCES.match(root.message) or root.type == "Killed":
        rank = 1
    if root.number < lived:
        rank = 3
    return replace(root, rank=rank)


def _last_life(lines: list[Record], first: int) -> int:
    """The number of the last line in which a process says, as in good days, that it works; 0 without one after line `first`."""
    for line in reversed(lines):
        if line.number <= first:
            return 0
        if (line.level in ("INFO", "DEBUG") or (line.begins and not line.level)) and line.text and not ENDING.search(line.text):
            return line.number
    return 0


def _one_a_process(roots: list[Root]) -> list[Root]:
    """Of each process the first of each rank: what comes later is told of its end."""
    seen: set[tuple[str, int]] = set()
    kept: list[Root] = []
    for root in roots:
        if (key := (root.process, root.rank)) not in seen or root.rank == 3:
            seen.add(key)
            kept.append(root)
    return kept


def _with_details(root: Root, lines: list[Record]) -> Root:
    if not OUTWARD.search(f"{root.type} {root.message}"):
        return root
    return replace(root, beside="\n".join(deaths.details(lines)))


def _error_lines(lines: Iterable[Record]) -> list[Root]:
    """Where no exception is told: what was said as an error, the first line of it."""
    found = []
    for line in lines:
        if line.level in ("ERROR", "CRITICAL") and line.text.strip() and not WRAPPERS.search(line.text):
            found.append(Root("", line.text.strip(), "", line.text.strip(), line.number, line.process, line.stamp, (), 2))
    return found


PYDANTIC = re.compile(r"(\d+) validation errors? for (\w+)")
BODY = re.compile(r"^ {2}(?! )(?P<body>.+?)(?: \[type=\w+, input_value=.*)?$")


def unwrapped(raised: Raised) -> tuple[str, str]:
    """The type and the message of an exception; of pydantic's the message that it is about, with the settings that it names."""
    if not (PYDANTIC.match(raised.message) and "Validation" in raised.type):
        return raised.type, raised.message
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
    return kind, "\n".join(parts) or raised.message
