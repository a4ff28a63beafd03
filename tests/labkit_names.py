"""Which names labkit has, read from its source, and what a text calls by a name that it does not have."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Set
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "labkit"
RETIRED = set(
    [
        "bench",
        "bench_driver",
        "compare_worker",
        "drafts",
        "drawing",
        "fetch",
        "hotloading",
        "hub_server",
        "hubs",
        "json_files",
        "memory",
        "plots",
        "report",
        "safetensors_headers",
        "shards",
        "space",
        "triage",
        "units",
        "webui_api",
        "webui_data",
        "worker",
        "worker_side",
    ]
)
"""Modules of the flat folder that labkit once was. One that is there again, in whichever package, counts as there."""

SPAN = re.compile(r"`([^`\n]+)`")
NAME = re.compile(r"(\w+(?:\.\w+)*)(?:\(.*\))?")
"""What a span is that names something: `name`, `module.name`, `name(arguments)`."""
WHOLE = re.compile(r"\blabkit(?:\.\w+)+")
PATH = re.compile(r"\b(?:bench|docs|labkit|notebooks|runtimes|tests)/[\w./-]+\.(?:ipynb|json|md|pyi?|toml|txt)\b")
FILE = re.compile(r".*\.(?:com|index|json|jsonl|log|md|safetensors|stamp|toml|txt|yaml)")
"""What looks like a name and is a file or a host."""

Names = dict[str, set[str] | None]
"""Name in a module -> names in it: of a class its methods and fields, none of a function, None where reading does not tell."""


def misnamed(text: str, also: Set[str] = frozenset()) -> list[str]:
    """What `text` calls by a name or a path that is not there. `also`: words that it may use for something of its own."""
    wrong = [name for name in WHOLE.findall(text) if not stands(name)] + [path for path in PATH.findall(text) if not (ROOT / path).exists()]
    for match in map(NAME.fullmatch, SPAN.findall(text)):
        name = match.group(1) if match else ""
        first, dot, _ = name.partition(".")
        if (dot and first in SHORT | RETIRED and not stands(name)) or (not dot and first in RETIRED - SHORT - also):
            wrong.append(name)
    return sorted(set(wrong))


def stands(dotted: str) -> bool:
    """Whether it is a file's name, or labkit has it: a module by its whole name, without `labkit`, or by its last part, or what is in it."""
    parts = dotted.split(".")
    return FILE.fullmatch(dotted) is not None or any(
        parts[: len(own)] == own and _holds(names, parts[len(own) :])
        for module, names in MODULES.items()
        for whole in [["labkit", *module.split(".")] if module else ["labkit"]]
        for own in (whole, whole[1:], whole[-1:])
        if own
    )


def _holds(names: Names, rest: list[str]) -> bool:
    """Whether a module has what `rest` leads to; a method or a field of one of its classes may be named without the class."""
    if not rest or any(rest[0] in (inner or ()) for inner in names.values()):
        return True
    return rest[0] in names and (len(rest) == 1 or (inner := names[rest[0]]) is None or rest[1] in inner)


def module_name(path: Path) -> str:
    """Dotted below labkit; the package by its folder's name, labkit itself ""."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


def _defined(tree: ast.Module) -> Iterator[tuple[str, set[str] | None]]:
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name):
                yield name, set()
            case ast.ClassDef(name=name):
                yield name, set(_members(node))
            case ast.ImportFrom(module=None):
                pass  # a module: it stands for itself
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                yield from ((alias.asname or alias.name, None) for alias in aliases)
            case _:
                yield from ((name.id, None) for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store))


def _members(node: ast.ClassDef) -> Iterator[str]:
    for inner in ast.walk(node):
        match inner:
            case ast.FunctionDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name


MODULES: dict[str, Names] = {}
for _path in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")]:
    MODULES.setdefault(module_name(_path), {}).update(_defined(ast.parse(_path.read_text(encoding="utf-8"))))
SHORT = {"labkit", *(name.rpartition(".")[2] for name in MODULES if name)}
