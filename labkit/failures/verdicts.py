"""What a log says of a failure: its cause and what to do, if it is known; else its own words, whole, and where they stand.

    labkit.explain("vllm.log")                     a file: of a colleague, a container, another machine
    labkit.explain(text, engine="sglang")          what was copied out of a terminal
    explain_files([out, err], engine="vllm")       the two logs of one server

The exception that ended the process is found first (`roots`), and only it is held against what is known (`known`): lines that merely
stand in the log are no evidence. Where it is not known, that is said, and no advice is made up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..common.errors import SettingError
from . import deaths, roots, wording
from .known import KnownFailure, Words, of_engine
from .outer import is_binary, peeled, read
from .phases import phase
from .records import LogLine, records
from .tracebacks import CUT_OFF, WITNESS, Raised, Root

UNKNOWN = Words("labkit does not know this failure.", "labkit 不认识这个错误。")
NOTHING = Words("The log tells of no failure.", "日志里没有错误。")
EMPTY = Words("The log is empty.", "日志是空的。")
BROKEN_OFF = Words(
    "The log breaks off inside a traceback, before it says which exception it was.", "日志在 traceback 中间断了，还没说是什么异常。"
)
LONGEST_PATH = 1000
LINES_BESIDE = 3
"""Lines of compilers or of NCCL that are shown with an exception that points at them."""
DEEPEST = 10
"""Exceptions of a chain that are looked at, from either end."""
NAMES_OF_DEATHS = frozenset(name for name, _ in deaths.DEATHS) - {"ValueError"}


@dataclass(frozen=True)
class Verdict:
    """Why something failed, as far as its log says.

    `id` is that of the catalogue, "" for a failure that is not known; `cause` and `fix` are then "". `message` is the exception's own,
    whole; `line` the line that it begins with, `number` and `file` where that stands ("" of a text). `phase` is the stage that ran.
    `found` is False where the log tells of no failure. Prints itself in `language`: "en", "zh", or "" for both.
    """

    found: bool
    id: str = ""
    causes: Words = field(default_factory=Words)
    fixes: Words = field(default_factory=Words)
    type: str = ""
    message: str = ""
    line: str = ""
    number: int = 0
    file: str = ""
    process: str = ""
    phase: str = ""
    engine: str = ""
    language: str = ""
    empty: bool = False
    others: tuple[str, ...] = ()
    """The other exceptions of its chain, each whole."""
    telling: str = ""
    """The one line by which a known failure is known: `line`, or a line further down in the message or beside it."""

    @property
    def cause(self) -> str:
        return self.causes.of(self.language)

    @property
    def fix(self) -> str:
        return self.fixes.of(self.language)

    @property
    def unknown(self) -> str:
        """The sentence that says that a failure is not known."""
        return (BROKEN_OFF if self.type == CUT_OFF else UNKNOWN).of(self.language)

    @property
    def known(self) -> bool:
        return bool(self.id)

    @property
    def words(self) -> str:
        """The exception's own words: its class and its whole message."""
        name = self.type.rpartition(".")[2]
        return f"{name}: {self.message}" if name and name not in NAMES_OF_DEATHS else self.message

    @property
    def place(self) -> str:
        """File and line number, as far as they are known."""
        return f"{self.file}:{self.number}" if self.file else f"line {self.number}"

    def text(self, language: str = "") -> str:
        """The verdict in one language, or in both."""
        chosen = [language] if language else ["en", "zh"]
        if not self.found:
            return "\n".join((EMPTY if self.empty else NOTHING).of(one) for one in chosen)
        causes = self.causes if self.known else BROKEN_OFF if self.type == CUT_OFF else UNKNOWN
        lines = [f"{'原因：' if one == 'zh' else 'cause: '}{causes.of(one)}" for one in chosen]
        lines += [f"{'怎么办：' if one == 'zh' else 'fix:   '}{self.fixes.of(one)}" for one in chosen if self.fixes.of(one)]
        who = f", {self.process}" if self.process else ""
        label = "原文" if language == "zh" else "its own words"
        own = [f"    {line}" for words in (self.words, *self.others) for line in words.splitlines()]
        return "\n".join([*lines, f"{label} ({self.place}{who}):", *own])

    def __str__(self) -> str:
        return self.text(self.language)

    __repr__ = __str__


def explain(path_or_text: str | Path, *, engine: str = "", language: str = "") -> Verdict:
    """Why the log of an engine (or of the chat page, or a tool) ends in a failure.

    `path_or_text` is a file, or the log itself. `engine` is "vllm", "sglang", ...; left out, the log tells. Raises `SettingError` for a
    file that cannot be read, and for another language than "en", "zh" and "" (both).
    """
    if not isinstance(path_or_text, (str, Path)):
        raise SettingError(f"A log was given as {type(path_or_text).__name__}.", "Give the file of a log, or its text.")
    if language not in ("", "en", "zh"):
        raise SettingError(f"language is {language!r}.", 'Use "en", "zh" or "" for both.')
    path = _path(path_or_text)
    if path is None:
        return replace(explain_text(str(path_or_text), engine=engine), language=language)
    return replace(explain_files([path], engine=engine), language=language)


def explain_text(text: str, *, engine: str = "") -> Verdict:
    """The same of a text alone."""
    return _verdict(records(text, peeled), engine, [], blank=not text.strip())


def explain_files(paths: Iterable[Path], *, engine: str = "") -> Verdict:
    """The same of the logs of one server, standard output's first; those that are not there count as empty."""
    lines: list[LogLine] = []
    places: list[tuple[int, str]] = []
    blank = True
    for path in paths:
        try:
            text = read(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise SettingError(f"{path} cannot be read: {error.strerror}.", "Give a file that you may read.") from error
        if is_binary(text):
            raise SettingError(f"{path} holds no text.", "Give the log itself; unpack it first if it lies in an archive.")
        blank = blank and not text.strip()
        start = lines[-1].number if lines else 0
        lines += [line._replace(number=line.number + start) for line in records(text, peeled)] if start else records(text, peeled)
        places.append((start, str(path)))
    return _verdict(lines, engine, places, blank=blank)


def explain_message(message: str, *, engine: str) -> Verdict:
    """What is known of a message that a running server answered; it has no log around it."""
    said = Raised("", message, 0, message)
    return _named(Root(said, (said,), "", "", 0), "serving", engine, "", 0)


def _path(given: str | Path) -> Path | None:
    if isinstance(given, str) and ("\n" in given.strip() or len(given) > LONGEST_PATH):
        return None
    path = Path(given).expanduser()
    with suppress(OSError):
        if path.is_file():
            return path
    if isinstance(given, Path) or re.fullmatch(r"\S*/\S*|[A-Za-z]:[\\/][^:]*|(?:[A-Za-z]:)?[^:]*\.(?:log|txt|out|err|gz)", given.strip()):
        what = "a folder" if path.is_dir() else "no file" if path.exists() else "not there"
        raise SettingError(f"{given} is {what}.", "Give the file of a log, or its text.")
    return None


def _verdict(lines: list[LogLine], engine: str, places: Sequence[tuple[int, str]], *, blank: bool) -> Verdict:
    found = roots.of(lines)
    engine = engine or told_engine([line for line in lines if line.number >= found[0].since] if found and found[0].since else lines)
    if not found:
        return Verdict(False, engine=engine, empty=blank)
    root = next((root for root in found if root.rank != WITNESS or classify(root, "serving", engine)[0]), found[0])
    start, file = next((place for place in reversed(places) if place[0] < root.number), (0, ""))
    functions = [function for raised in root.chain for _, function in raised.frames]
    verdict = _named(root, phase(functions, root.process, root.number, lines), engine, file, start)
    return Verdict(False, engine=engine) if root.rank == WITNESS and not verdict.known else verdict


def _named(root: Root, stage: str, engine: str, file: str, start: int) -> Verdict:
    """A root with what is known of it; `start` is what its file's line numbers begin with."""
    failure, told, groups = classify(root, stage, engine)
    others = tuple(one.words for one in root.chain[-DEEPEST:] if one is not told and one.message not in told.message)
    verdict = Verdict(True, type=told.type, message=told.message or told.source, line=told.line, number=told.number - start, file=file)
    telling = failure.beside if failure is not None else None
    others += tuple(line.strip() for line in root.beside.splitlines() if telling is None or telling.search(line))[:LINES_BESIDE]
    verdict = replace(verdict, process=root.process, phase=stage, engine=engine, others=others)
    if failure is None:
        return verdict
    causes, fixes = (wording.fill(words, groups, engine) for words in (failure.cause, failure.fix))
    return replace(verdict, id=failure.id, causes=causes, fixes=fixes, telling=_telling(failure, told, root.beside))


def _telling(row: KnownFailure, told: Raised, beside: str) -> str:
    """Where the row found what it looks for; compilers and pydantic begin with a line that says nothing ("1 validation error for ...")."""
    for pattern, text in ((row.beside, beside), (row.message, told.message)):
        if pattern is not None and (found := pattern.search(text)):
            start = text.rfind("\n", 0, found.start()) + 1
            one = text[start:].partition("\n")[0].strip()
            return told.line if not one or one in told.line else one
    return told.line


def classify(root: Root, stage: str, engine: str) -> tuple[KnownFailure | None, Raised, dict[str, str | None]]:
    """What is known of a root: of its own words first, then of those of its chain; with the exception that is known, else the root's."""
    for one in [root.raised, *(raised for raised in (*root.chain[:DEEPEST], *root.chain[-DEEPEST:]) if raised is not root.raised)]:
        for row in of_engine(engine):
            if (not row.phase or stage in row.phase) and (groups := _matched(row, one, root.beside)) is not None:
                return row, one, groups
    return None, root.raised, {}


def _matched(row: KnownFailure, raised: Raised, beside: str) -> dict[str, str | None] | None:
    """The named groups of a row that an exception fits, None where it does not fit."""
    groups: dict[str, str | None] = {}
    if (row.type and not row.type.fullmatch(raised.name)) or (row.module and not row.module.fullmatch(raised.module)):
        return None
    if (row.function and not row.function.fullmatch(raised.function)) or (row.source and not row.source.fullmatch(raised.source)):
        return None
    if row.within and not any(row.within.fullmatch(module) for module in raised.modules):
        return None
    for pattern, text in ((row.message, raised.message or raised.source), (row.beside, beside)):
        if pattern is not None:
            found = pattern.search(text)
            if found is None:
                return None
            groups |= found.groupdict()
    return groups


SAYS = {
    "vllm": re.compile(r"EngineCore|APIServer|Vllm|vLLM|vllm[./\\]|(?:^| )(?:vllm|main\.py serve|api_server\.py)\b[\w -]*: error: "),
    "sglang": re.compile(r"sglang[./\\]|SGLang|\bTP\d\b|(?:^| )(?:sglang|launch_server\.py)\b[\w -]*: error: "),
    "open_webui": re.compile(r"open_webui"),
    "llamafactory": re.compile(r"llamafactory"),
    "verl": re.compile(r"verl[./\\]"),
}


def told_engine(lines: Sequence[LogLine]) -> str:
    """Whose log it is, by who writes and which files stand in its frames; "" where that does not tell."""
    counts = dict.fromkeys(SAYS, 0)
    for line in [*lines[:400], *lines[-400:]]:
        if line.head or 'File "' in line.text or ": error: " in line.text or "open_webui" in line.text:
            for name, pattern in SAYS.items():
                counts[name] += pattern.search(f"{line.process} {line.text[:300]}") is not None
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else ""
