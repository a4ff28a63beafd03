"""Where the last of several starts begins, whose logs stand in one file: the last one counts.

A start begins with its banner, with another pid, at a prompt of a shell; and one that got no further than its command line, its imports
or its settings begins where that failure is told. Does not cover what failed (`roots`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from .records import LogLine
from .tracebacks import LIVED, Raised, Root

BANNERS = ("vLLM API server version", "non-default args", "server_args=")
"""What a start writes first."""
PLATFORM = "Automatically detected platform"
"""What every process of vLLM writes first: it begins a start where an earlier one has ended."""
PROMPT = re.compile(
    r"(?:\([\w.-]+\) )?(?:\[?[\w.-]+@[\w.-]+[: ][^#$\n]{0,80}[#$]|[$>]|PS [^>\n]{0,80}>) (?=\S*(?:vllm|sglang|python|lab|docker|bash|uv)\b)"
)
ENTRIES = ("bin/vllm", "bin/sglang", "bin/open-webui", "launch_server.py", "api_server.py", "cli/main.py")
"""Files in which a main process begins."""


def last(lines: Sequence[LogLine], roots: Sequence[Root], wrappers: Sequence[Root]) -> int:
    """The number of the line with which the last start begins that failed; 0 where there is one only."""
    ends = sorted([*roots, *wrappers], key=lambda root: root.number)
    if not ends:
        return 0
    first, latest = ends[0].number, ends[-1].number
    places = [*_banners(lines), *_prompts(lines), *_after(lines, ends), *_early(ends), *_mains(ends)]
    return max((number for number in places if first < number <= latest), default=0)


def earlier(by_process: Mapping[str, Sequence[LogLine]], began: int) -> set[str]:
    """The processes of a start before line `began`, by their pid: what they write later is of that start. None where pids come again."""
    old = {process for process, own in by_process.items() if process and "pid" in process and own[0].number < began}
    again = any(line.number >= began and _begins(line) for process in old for line in by_process[process])
    return set() if again else old


def _begins(line: LogLine) -> bool:
    return line.level in ("", "INFO") and any(words in line.text for words in (*BANNERS, *ENTRIES))


def _banners(lines: Sequence[LogLine]) -> list[int]:
    """Where a banner comes again, or the same one of another process."""
    seen: dict[tuple[str, str], list[int]] = defaultdict(list)
    for line in lines:
        text = line.text
        if not ("server_args=" in text or "server version" in text or "non-default" in text):
            continue
        if line.level in ("", "INFO") and (said := next((words for words in BANNERS if words in line.text), "")):
            seen[line.process, said].append(line.number)
    firsts = {process: min(numbers[0] for (one, _), numbers in seen.items() if one == process) for process, _ in seen}
    again = [number for numbers in seen.values() for number in numbers[1:]]
    return again + (list(firsts.values()) if len(firsts) > 1 else [])


def _prompts(lines: Sequence[LogLine]) -> list[int]:
    return [line.number for line in lines if not line.head and PROMPT.match(line.text)]


def _after(lines: Sequence[LogLine], ends: Sequence[Root]) -> list[int]:
    """Where something begins after a start of which the end was told by its main process."""
    over = min((end.number for end in ends if _is_main(end) or end.raised.type == "ArgumentError"), default=0)
    words = (*BANNERS, PLATFORM)
    return [line.number for line in lines if over < line.number and any(word in line.text for word in words)] if over else []


def _early(ends: Sequence[Root]) -> list[int]:
    """After which lines a failure is a start of its own, since something else failed before that cannot have led to it."""
    found: list[int] = []
    writers: set[str] = set()
    other, number = "", 0
    for end in ends:
        if end.rank not in (0, 1) and end.rank <= LIVED:
            continue
        engine = _engine(end)
        if number and end.rank == 0:
            children = bool(writers - {"", "main", end.process})
            main = end.process in ("", "main") and any(map(_from_the_top, end.chain))
            if end.raised.type == "ArgumentError" or (main and children) or (engine and other and engine != other):
                found.append(number + 1)
        writers.add(end.process)
        other, number = engine or other, end.number
    return found


def _mains(ends: Sequence[Root]) -> list[int]:
    """After which lines a main process ended, where another one ends later for another reason."""
    mains = [end for end in ends if _is_main(end) and end.rank != 1]
    pairs = [(one, other) for one, other in zip(mains, mains[1:], strict=False) if one.raised.words != other.raised.words]
    return [
        max(end.number for end in ends if end.raised.words == one.raised.words and end.number < other.number) + 1 for one, other in pairs
    ]


def _is_main(root: Root) -> bool:
    """Whether it passed through all of a main process: nothing of that process comes after it."""
    whole = [raised.frames for raised in root.chain if _from_the_top(raised)]
    files = [file.replace("\\", "/") for frames in whole for file, _ in frames[:3]]
    return any(file.endswith(ENTRIES) for file in files)


def _from_the_top(raised: Raised) -> bool:
    return bool(raised.frames) and raised.frames[0][1] in ("<module>", "_run_module_as_main")


def _engine(root: Root) -> str:
    files = " ".join(path for raised in root.chain for path, _ in raised.frames).replace("\\", "/")
    return "sglang" if "sglang/" in files else "vllm" if "vllm/" in files else ""
