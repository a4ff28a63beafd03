"""Which exception ended a start: the root, of the process that failed first.

    of(records(text))   -> [Root, ...], the most likely one first; [] where the log tells of no failure

Left out: wrappers, which only say that something failed elsewhere; exceptions in INFO and WARNING lines; those after which their process
went on working. Last come consequences, which one process suffers because another failed. Does not cover what an exception means
(`catalogue`, `verdicts`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from . import deaths, starts
from .phases import ready
from .records import LogLine
from .tracebacks import CUT_OFF, HEADER, LIVED, QUIET, QUIETLY, WITNESS, WRAPPER, Chain, Raised, Root, chains, plain

WRAPPERS = re.compile(
    "|".join(
        [
            r"(?:vLLM )?Engine core (?:initialization|proc\S*) (?:failed|died)",
            r"Engine core proc \S+ died",
            r"EngineCore (?:encountered an issue|failed to start)",
            r"(?:WorkerProc|Worker proc\S*|Worker) initialization failed due to an exception",
            r"Engine process (?:failed to start|\(?PID)",
            r"Engine loop (?:has died|is not running)",
            r"Background loop (?:has errored already|is stopped)",
            r"See (?:root cause|stack trace)",
            r"Worker failed with error",
            r"Scheduler hit an exception",
            r"(?:TokenizerManager|DetokenizerManager|Subprocess) hit an exception",
            r"Initialization failed\. (?:Please see|warmup error)",
            r"Initialization failed\. Please",
            r"Child process unexpectedly failed",
            r"Failed core proc",
            r"Rank \d+ scheduler (?:is dead|died)",
            r"Data parallel controller",
            r"Executor failed",
            r"Worker \S+ died",
            r"EngineDead",
            r"Process 0 terminated with",
            r"Command '\[[^\n]*vllm\.model_executor\.models\.registry",
            r"Model architectures \[[^\]]*\] failed to be inspected",
            r"Error raised in subprocess",
            r"Received (?:sigquit|SIGQUIT)",
            r"SIGQUIT received",
            r"Application startup failed",
            r"Task exception was never retrieved",
            r"EngineGenerateError",
        ]
    ),
)
"""What a wrapper's message begins with, more or less."""
WRAPPER_TYPES = frozenset(
    ["EngineDeadError", "EngineGenerateError", "MQEngineDeadError", "AsyncEngineDeadError", "RemoteTraceback", "_RemoteTraceback"]
    + ["ProcessRaisedException", "RayTaskError", "ExceptionGroup", "BaseExceptionGroup", "CancelledError", "SystemExit", "Exit"]
)
CARRIES = re.compile(
    r"(?:Worker failed with error|Engine core initialization failed[^\n]*?:) ?'(?P<inner>.+)', please check the stack trace", re.DOTALL
)
"""A wrapper that repeats what it is about."""
CONSEQUENCES = re.compile(
    "|".join(
        [
            r"Broken pipe",
            r"Connection (?:reset|closed) by (?:remote )?peer",
            r".*Connection reset by peer",
            r".*remote process exited or there was a network error",
            r".*Socket Timeout",
            r".*recvValue failed",
            r".*Failed to recv, got 0 bytes",
            r".*TCPStore",
            r".*wait timeout after",
            r"cannot schedule new futures",
            r".*the store was closed",
            r".*[Ss]hutting down",
            r".*event loop is closed",
            r"\[Errno (?:32|104)\]",
        ]
    ),
)
CONSEQUENCE_TYPES = frozenset(
    [
        "BrokenPipeError",
        "ConnectionResetError",
        "EOFError",
        "KeyboardInterrupt",
        "ActorDiedError",
        "RayActorError",
        "ProcessExitedException",
    ]
    + ["WorkerCrashedError", "Killed", "Segfault", "ExitCode", "Watchdog", "ChildFailedError"]
)
OUTWARD = re.compile(
    "|".join(
        [
            r"NCCL",
            r"No CUDA GPUs",
            r"infer device type",
            r"cudaGetDeviceCount",
            r"Ninja build failed",
            r"returned non-zero exit status",
            r"Error building extension",
            r"CppCompileError",
            r"C\+\+ compile error",
            r"gcc",
            r"nvcc",
        ]
    ),
    re.IGNORECASE,
)
"""Messages that say that another program failed: its own lines say why."""
ENDING = re.compile(
    r"shut(?:ting)?.?down|terminat|kill|exit|clean|sigquit|signal|fail|error|exception|dump|stopp|died|dead|closed|leak|destroy|abort|cancel|raise"
    r"|waiting|retry|\bsee\b|usage|traceback",
    re.IGNORECASE,
)
"""Words of INFO lines that a dying process may write too."""
TRIVIAL = frozenset(["HTTPError", "HTTPStatusError", "KeyError", "AttributeError", "IndexError", "StopIteration", "Empty", "LookupError"])
"""What is looked up first and then made or refused: while it is handled the real failure comes."""


MOST_ERRORS = 20
"""Of a server that lives: errors that are looked at, the last ones."""
RETRIED = re.compile(r"\b[Rr]etry(?:ing)? (?:in|after) \d|\bTrying to resume download")
SHUTDOWN = re.compile(r"\[shutdown\]|Shutting down|shutdown of|SIGTERM|SIGINT|Gracefully exiting")


def of(lines: list[LogLine]) -> list[Root]:
    """Every failure that ended a process, the most likely cause of all others first; [] where the lines tell of none."""
    by_process: dict[str, list[LogLine]] = defaultdict(list)
    for line in lines:
        by_process[line.process].append(line)
    roots: list[Root] = []
    wrappers: list[Root] = []
    for own in by_process.values():
        found = sorted([*chains(own), *deaths.deaths(own)], key=lambda chain: chain.raised[-1].number)
        lived = _last_life(own, found[0].raised[0].number if found else 0)
        for chain in found:
            root = _root(chain)
            if root.rank != QUIETLY:
                (roots if root.rank < WRAPPER else wrappers).append(_ranked(root, chain, lived))
    if began := starts.last(lines, roots, wrappers):
        old = starts.earlier(by_process, began)
        late = [[root for root in some if root.number >= began and root.process not in old] for some in (roots, wrappers)]
        if any(late):
            roots, wrappers = late
            lines = [line for line in lines if line.number >= began and line.process not in old]
    served = ready(lines)
    if served and not wrappers and not any(WRAPPERS.match(line.text) for line in lines if line.level not in QUIET):
        errors = [root for root in roots if root.rank == LIVED and (root.raised.level == "ERROR" or root.raised.frames)]
        roots = [root for root in roots if root.rank < LIVED] or [replace(root, rank=WITNESS) for root in reversed(errors[-MOST_ERRORS:])]
    cut = {root.process: root.number for root in wrappers if root.raised.type == CUT_OFF}
    roots = _one_a_process([root for root in roots if not _went_on(root, cut)])
    if not (roots and roots[0].rank == WITNESS):
        roots.sort(key=lambda root: (root.rank, root.stamp or "~", root.number))
    if not roots and not served and not cut:
        roots = _error_lines(lines)
    if not roots:
        starting = bool(wrappers) and "initialization failed" in wrappers[-1].raised.message
        ended = served and not starting and any(SHUTDOWN.search(line.text) for line in lines)
        roots = [] if ended else wrappers[-1:]
    return [replace(root, beside=_beside(root, lines), since=began) for root in roots[:1]] + roots[1:]


def _root(chain: Chain) -> Root:
    """The exception of a chain that says why: the deepest, less wrappers and less what was only looked up."""
    loud = [raised for raised in chain.raised if raised.level not in QUIET]
    telling = tuple(one for raised in loud if not _wraps(one := plain(raised)))
    if not telling:
        return _carried(chain, loud)
    chosen = telling[-1]
    for earlier, later in zip(reversed(telling[:-1]), reversed(telling[1:]), strict=True):
        if later.link == "context" and earlier.name in TRIVIAL and earlier.message not in later.message:
            break
        chosen = earlier
    if any(raised.link == "remote" for raised in telling):
        chosen = telling[-1]
    return Root(chosen, telling, chain.process, chain.stamp, 0)


def _carried(chain: Chain, loud: list[Raised]) -> Root:
    """Of wrappers alone: what one of them repeats, else the last of them."""
    for raised in loud:
        if match := CARRIES.search(raised.message):
            inner = Raised("", match["inner"].replace("\\n", "\n"), raised.number, raised.line, raised.level)
            return Root(inner, (inner,), chain.process, chain.stamp, 1)
    return Root(chain.raised[-1], (chain.raised[-1],), chain.process, chain.stamp, WRAPPER if loud else QUIETLY)


def _wraps(raised: Raised) -> bool:
    return (
        raised.name in WRAPPER_TYPES
        or raised.type == CUT_OFF
        or WRAPPERS.match(raised.message) is not None
        or "See root cause above" in raised.message
    )


def _ranked(root: Root, chain: Chain, lived: int) -> Root:
    rank, raised = root.rank, root.raised
    if rank == 0 and (chain.aside or raised.name in CONSEQUENCE_TYPES or CONSEQUENCES.match(raised.message)):
        rank = 1
    if rank < LIVED and (raised.number < lived or RETRIED.search(raised.message)):
        rank = LIVED
    return replace(root, rank=rank)


def _last_life(lines: list[LogLine], first: int) -> int:
    """The number of the last line in which a process says, as in good days, that it works; 0 without one after line `first`."""
    for line in reversed(lines):
        if line.number <= first:
            return 0
        if (line.level in ("INFO", "DEBUG") or (line.begins and not line.level)) and line.text and not ENDING.search(line.text):
            return line.number
    return 0


def _went_on(root: Root, cut: dict[str, int]) -> bool:
    """Whether it was no cause, since the log breaks off in a later traceback. `cut` has where, by process."""
    if root.rank >= LIVED:
        return root.number < max(cut.values(), default=0)
    return root.rank == 0 and root.process in ("", "main") and root.number < cut.get(root.process, 0)


def _one_a_process(roots: list[Root]) -> list[Root]:
    """Of each process the first of each rank: what comes later is told of its end."""
    seen: set[tuple[str, int]] = set()
    kept: list[Root] = []
    for root in roots:
        if (key := (root.process, root.rank)) not in seen or root.rank in (LIVED, WITNESS):
            seen.add(key)
            kept.append(root)
    return kept


def _beside(root: Root, lines: list[LogLine]) -> str:
    if not any(OUTWARD.search(f"{raised.type} {raised.message}") for raised in root.chain):
        return ""
    return "\n".join(deaths.details(lines))


def _error_lines(lines: Iterable[LogLine]) -> list[Root]:
    """Where no exception is told: what was said as an error."""
    found = []
    for line in lines:
        if line.level in ("ERROR", "CRITICAL") and line.text[:1].strip() and HEADER not in line.text and not WRAPPERS.search(line.text):
            said = Raised("", line.text.strip(), line.number, line.text.strip(), line.level)
            found.append(Root(said, (said,), line.process, line.stamp, 2))
    return found
