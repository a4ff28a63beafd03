"""A login that a narrow window, a table's cell or a PDF broke into several lines, in one line again.

A break stands for a blank, or for nothing. Both are tried, and kept is what can be read in one way only. Does not cover: what is read
(`logins` says). Used by `logins`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from .login_parts import TOP_LEVEL

MOST_LINES, MOST_TRIED, LONGEST_LINE = 4, 8, 400
OPTION = re.compile(r"-[A-Za-z46](?![A-Za-z]*-)\S*")
REST_OF_NAME = re.compile(rf"\.?(?:[a-z0-9-]+\.)+{TOP_LEVEL}(?=$|\s+-)")
END_OF_NAME = re.compile(rf"(?:[a-z0-9-]+\.)*{TOP_LEVEL}(?=$|\s+-)")


def joined(lines: list[str], reads: Callable[[str], object | None], begins: Callable[[str], bool]) -> Iterable[str]:
    """`lines`, of which those that begin a login are joined with the following ones that belong to it.

    `begins` says whether a line has a login in it, whole or not; `reads` gives what a whole one says, else None.
    """
    left = MOST_TRIED
    while lines:
        line, lines = lines[0], lines[1:]
        if lines and len(line) <= LONGEST_LINE and begins(line):
            line, lines = _with_options(line, lines)
            if left and lines and reads(line) is None:
                left -= 1
                line, lines = _with_options(*_in_one_way(line, lines, reads, begins))
            line, lines = _with_end_of_name(line, lines)
        yield line


def _with_options(line: str, following: list[str]) -> tuple[str, list[str]]:
    """With the lines of options behind it."""
    while following and OPTION.match(following[0]):
        line, following = f"{line} {following[0]}", following[1:]
    return line, following


def _in_one_way(
    line: str, following: list[str], reads: Callable[[str], object | None], begins: Callable[[str], bool]
) -> tuple[str, list[str]]:
    """With as few following lines as make it whole, if all joinings that do so say the same."""
    tries = [line]
    for number, more in enumerate(following[:MOST_LINES], 1):
        if begins(more) or len(more) > LONGEST_LINE:
            break
        tries = [before + between + more for before in tries for between in (" ", "")]
        whole = [(one, told) for one in tries if (told := reads(one)) is not None]
        if whole:
            alike = all(told == whole[0][1] for _, told in whole)
            return (whole[0][0], following[number:]) if alike else (line, following)
    return line, following


def _with_end_of_name(line: str, following: list[str]) -> tuple[str, list[str]]:
    """With the end of the machine's name, where the first part of it could be a name as well: root@a.example.c, om."""
    cut = re.search(r"@(?:[\w-]+\.)*([\w-]*)$", line)
    if not cut or not following or re.search(r"@\d+\.\d+\.\d+\.\d+$", line):
        return line, following
    last, end = cut.group(1), following[0]
    letters = re.match(r"[a-z]{1,5}(?=$|\s+-)", end)
    if letters and "." in cut.group() and last:
        whole = last + letters.group()
        belongs = bool(re.fullmatch(TOP_LEVEL, whole)) and (whole == "com" or not re.fullmatch(TOP_LEVEL, last))
    else:
        belongs = not re.fullmatch(TOP_LEVEL, last) and bool((REST_OF_NAME if last else END_OF_NAME).match(end))
    return (line + end, following[1:]) if belongs else (line, following)
