"""Which pinned list an engine or tool gets on which machine: reads runtimes/engines.toml and the lists beside it.

Covers: the lists, what each needs of the machine, the choice by driver. Does not cover: making an environment (`environments`).
The folder lies at the top of the clone, where `git diff` shows a changed pin; labkit is installed editable and finds it there.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..common.errors import InstallError, SettingError

LISTS = Path(__file__).resolve().parents[2] / "runtimes"


@dataclass(frozen=True)
class PinnedList:
    """One list of exact versions and what it needs; the fields are explained in runtimes/engines.toml. Sizes in bytes."""

    list: str
    least_driver: int
    bytes: int
    measured: bool
    cuda: str
    extensions: tuple[str, ...]
    why: str
    capabilities: tuple[str, ...] = ()
    libraries: Mapping[str, str] = field(default_factory=dict)
    supply: Mapping[str, str] = field(default_factory=dict)
    overlay: str = ""
    fallback: str = ""
    folder: Path = LISTS

    @property
    def file(self) -> Path:
        """The list itself."""
        return self.folder / f"{self.list}.txt"

    @property
    def digest(self) -> str:
        """Changes when an environment made from the list is out of date."""
        overlaid = {str(path): source.read_text() for path, source in self.overlaid().items()}
        return sha256(f"{self.pins()} {dict(self.supply)}{overlaid or ''}".encode()).hexdigest()[:16]

    def overlaid(self) -> dict[Path, Path]:
        """Path below site-packages -> the file that takes its place there."""
        top = self.folder / self.overlay
        return {path.relative_to(top): path for path in sorted(top.rglob("*.py"))} if self.overlay else {}

    def runs_on(self, capability: tuple[int, int] | None) -> bool:
        """Whether its compiled code has something for a GPU of this compute capability: code for 8.6 also runs on 8.9, never on 9.0.

        True where one of both is not known.
        """
        if capability is None or not self.capabilities:
            return True
        built = (tuple(map(int, text.split("."))) for text in self.capabilities)
        return any(major == capability[0] and minor <= capability[1] for major, minor in built)

    def pins(self) -> dict[str, str]:
        """Package name -> version, as written in the list."""
        lines = (line.partition("#")[0].strip() for line in self.file.read_text().splitlines())
        return dict(line.split("==", 1) for line in lines if line)


@dataclass(frozen=True)
class Tool:
    """An engine or another program with an environment of its own: how it is recognised there, and its lists, best first."""

    name: str
    title: str
    package: str
    module: str
    distribution: str
    needs: tuple[str, ...]
    lists: tuple[PinnedList, ...]


def tools() -> dict[str, Tool]:
    """All that this kit can make an environment for, by name. Raises `InstallError` where the lists are not there."""
    return _read(LISTS)


@cache
def _read(folder: Path) -> dict[str, Tool]:
    table = folder / "engines.toml"
    if not table.is_file():
        raise InstallError(f"The pinned lists are missing: {table}.", "Install labkit from its clone: ./lab does it (or pip install -e .).")
    with table.open("rb") as stream:
        rows = tomllib.load(stream)
    return {name: _tool(name, row, folder) for name, row in rows.items()}


def tool(name: str) -> Tool:
    """The row called `name` ("vllm"). Raises `SettingError` for an unknown one."""
    known = tools()
    if name not in known:
        raise SettingError(f"There is no engine {name!r}.", f"Use one of: {', '.join(known)}.")
    return known[name]


def choose(tool: Tool, driver: str, capability: tuple[int, int] | None = None) -> PinnedList:
    """The list for a machine with NVIDIA driver `driver` ("580.159.04"; "" for a machine without a GPU).

    `capability` is the compute capability of its oldest GPU, None where that is not known. Raises `InstallError` for a driver or a
    GPU that no list suits.
    """
    have, passed = major(driver), None
    for row in tool.lists:
        if not (row.least_driver < 0 or row.least_driver == 0 and not driver or 0 < row.least_driver <= have):
            continue
        if row.runs_on(capability):
            return replace(row, why=_card_decides(capability, passed, row)) if passed and capability else row
        passed = row
    if passed and capability:
        raise InstallError(
            f"This GPU has compute capability {_text(capability)}, and every {tool.title} list that runs on driver {driver} is built for "
            f"others: {', '.join(sorted({one for row in tool.lists for one in row.capabilities}, key=float))}.",
            "Rent a machine with a newer card, or go on without the GPU: export LABKIT_DEVICE=cpu",
        )
    oldest = min((row.least_driver for row in tool.lists if row.least_driver), default=0)
    raise InstallError(
        f"NVIDIA driver {driver} is too old for every {tool.title} list; the oldest one that suits is {oldest}.",
        "A rented machine's driver cannot be changed from inside: rent one with a newer driver (580 or newer is best).",
    )


def _card_decides(capability: tuple[int, int], passed: PinnedList, row: PinnedList) -> str:
    return (
        f"wheels built for CUDA {row.cuda}: those for CUDA {passed.cuda} have nothing for a GPU of compute capability {_text(capability)}"
    )


def _text(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def by_name(tool: Tool, name: str) -> PinnedList:
    """The list called `name`. Raises `SettingError` for an unknown one."""
    for row in tool.lists:
        if row.list == name:
            return row
    raise SettingError(f"{tool.title} has no pinned list {name!r}.", f"Use one of: {', '.join(row.list for row in tool.lists)}.")


def major(driver: str) -> int:
    """580 for "580.159.04", 0 for "" or anything else that is no driver version."""
    head = driver.partition(".")[0]
    return int(head) if head.isdigit() else 0


def _tool(name: str, row: dict[str, Any], folder: Path) -> Tool:
    lists = tuple(_list(item, folder) for item in row.pop("lists"))
    return Tool(name=name, lists=lists, needs=tuple(row.pop("needs")), **row)


def _list(item: dict[str, Any], folder: Path) -> PinnedList:
    tuples = {key: tuple(item.get(key, ())) for key in ("extensions", "capabilities")}
    return PinnedList(**{**item, **tuples}, folder=folder)
