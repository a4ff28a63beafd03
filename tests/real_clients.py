"""The three real clients as test parameters: each case once in the unit tier, by turns, and with every other client under `faults`.

A real client takes a second to start and asks again on its own for up to a minute: all cases with all clients take many minutes.
"""

import shutil
from collections.abc import Sequence
from typing import Any

import pytest

HAS_GIT_LFS = bool(shutil.which("git") and shutil.which("git-lfs"))
NO_GIT_LFS = "git-lfs is not installed: apt-get install -y git-lfs"
WAYS = ("modelscope", "huggingface", "git-lfs")
BOTH = ("modelscope", "huggingface")


def by_turns(names: str = "way", cases: Sequence[Any] = ((),), ways: Sequence[str] = WAYS, first: int = 0) -> pytest.MarkDecorator:
    """Parameters "way" and `names`: every way with every case; of each case only one way, from `first` on, stays in the unit tier."""
    rows = []
    for turn, case in enumerate(cases):
        values = case if isinstance(case, tuple) else (case,)
        for place, way in enumerate(ways):
            marks = [] if place == (first + turn) % len(ways) else [pytest.mark.faults]
            if way == "git-lfs":
                marks.append(pytest.mark.skipif(not HAS_GIT_LFS, reason=NO_GIT_LFS))
            rows.append(pytest.param(way, *values, marks=marks))
    return pytest.mark.parametrize(("way", *(name.strip() for name in names.split(",") if name.strip() != "way")), rows)


def all_ways() -> list[Any]:
    """Every way, all of them in the unit tier."""
    return [pytest.param(way, marks=pytest.mark.skipif(way == "git-lfs" and not HAS_GIT_LFS, reason=NO_GIT_LFS)) for way in WAYS]
