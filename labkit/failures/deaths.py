"""How a process ends without a traceback: a refused command line, a missing library, the interpreter's own death, a kill.

Each is found by its own words at the beginning of a line, and gets the name by which the catalogue asks for its kind. Also the lines of
compilers and of NCCL that say why when an exception only says that they failed. Does not cover exceptions (`tracebacks`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .records import LogLine
from .tracebacks import QUIET, Chain, Raised

DEATHS = (
    (
        "ArgumentError",
        r"(?!(?:\S*/)?(?:ninja|ld|gcc|g\+\+|cc1\w*|c\+\+|nvcc|make|uv|pip|git|curl|error|rm|cp)\b)[\w./-]+(?: [\w-]+)*: error: (?P<m>.+)",
    ),
    ("FatalPythonError", r"(?P<m>Fatal Python error: .+)"),
    ("Terminate", r"(?P<m>terminate called (?:after throwing an instance of .+|without an active exception.*|recursively))"),
    ("LoaderError", r"(?P<m>\S+: (?:error while loading shared libraries: .+|symbol lookup error: .+|\S*: version `\S+' not found.*))"),
    ("Segfault", r"(?P<m>!{3,} Segfault encountered !{3,}|\S*(?:Segmentation fault|Bus error|Illegal instruction)(?: .*)?)"),
    (
        "Killed",
        r"(?P<m>(?:\S+: line \d+: +\d+ )?Killed\b(?! by user| remaining).*"
        r"|.*\b(?:Out of memory: Killed|oom-kill|Memory cgroup out of memory).*)",
    ),
    ("NoCommand", r"(?P<m>(?:\S+: )?(?:line \d+: |\d+: )?\S+: (?:command )?not found|\S*python\S*: No module named \S+)"),
    ("ValueError", r"\s*Value error, (?P<m>.+?)(?: \[type=.*)?"),  # pydantic's, of which the rest was cut off
    ("ExitCode", r"(?P<m>Exit code: -\d+)"),
    ("Watchdog", r"(?P<m>(?:\w+ )?[Ww]atchdog timeout\b.*)"),
    ("ChildFailedError", r"(?P<m>Received (?:sigquit|SIGQUIT) from a child process\b.*)"),
    ("BindError", r"(?P<m>\[Errno \d+\] error while attempting to bind on address .+)"),
    ("NoCommand", r"(?P<m>\S*python\S*: Error while finding module specification for .+)"),
    ("ContainerError", r"(?P<m>docker: Error response from daemon: .+|.*nvidia-container-cli(?:\.real)?: .+)"),
)
DEATH = re.compile("|".join(f"(?P<k{place}>{pattern.replace('(?P<m>', f'(?P<m{place}>')})" for place, (_, pattern) in enumerate(DEATHS)))
OWN_END = "eceived sigquit from a child process"
"""After this SGLang kills its own processes, and the shell says so: no word of the machine's memory."""
OUTSIDE = frozenset(["ArgumentError", "LoaderError", "NoCommand", "ContainerError"])
"""Ends of a process that wrote nothing before: a line without a prefix is not of the writer of the lines above."""
SIGNS = (
    ": error: ", "Fatal Python", "terminate called", "error while loading", "lookup error", "' not found", "Segfault", "egmentation fault",
    "Bus error", "Illegal instr", "Killed", "oom-kill", "ot found", "No module named", "module specification", "docker: Error",
    "nvidia-container-cli", "Value error, ", "Exit code: -", "atchdog timeout", "from a child process", "attempting to bind",
)  # fmt: skip
WHAT = re.compile(r"\s*what\(\): +(.+)")
DETAIL = re.compile(
    r".*?(?:\bfatal error: |: error: |: Error: |cannot find -l|undefined reference|nvcc fatal|NCCL WARN|ninja: error|No space left|"
    r"\bkilled\b|internal compiler error|command not found|not found$|[Ll]ast error:|CUDA initialization: )"
)
DETAILS = 40


def deaths(lines: Iterable[LogLine]) -> list[Chain]:
    """What the lines of one process tell of an end without a traceback, in order."""
    found: list[Chain] = []
    stamp = ""
    loud = [line for line in lines if line.level not in QUIET]
    told = "\n".join([line.text for line in loud])
    signs = [sign for sign in SIGNS if sign in told]
    for line in loud if signs else ():
        stamp = line.stamp or stamp
        text = line.text
        if found and found[-1].raised[0].type == "Terminate" and (what := WHAT.match(text)):
            found[-1].raised[0].message += f"\n{what[1]}"
        if found and found[-1].raised[0].type == "ContainerError" and 0 < line.number - found[-1].raised[0].number <= 3 and text.strip():
            found[-1].raised[0].message += f"\n{text.strip()}"
            continue
        if not any(sign in text for sign in signs) or not (match := DEATH.fullmatch(text)):
            continue
        place = next(place for place in range(len(DEATHS)) if match[f"k{place}"] is not None)
        if DEATHS[place][0] == "Killed" and text.strip() == "Killed" and OWN_END in told:
            continue
        raised = Raised(DEATHS[place][0], match[f"m{place}"].strip(), line.number, text.strip(), line.level)
        found.append(Chain(line.process if line.head or raised.type not in OUTSIDE else "", stamp, [raised]))
    return found


def details(lines: Iterable[LogLine]) -> list[str]:
    """The lines of compilers, of NCCL and of torch's look at the GPUs that say what went wrong, the last ones of many."""
    found = [line.text for line in lines if line.text[:1] != " " and DETAIL.match(line.text)]
    return found[-DETAILS:]
