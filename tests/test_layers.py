"""Who may import whom: the table of docs/architecture.md held against the imports, those inside functions and for typing included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "labkit"
ALLOWED: dict[str, set[str]] = {
    "common": set(),
    "engines": set(),
    "machine": set(),
    "models": {"machine"},
    "runtimes": {"machine"},
    "chat": {"engines"},
    "workers": {"runtimes", "chat"},
    "hub": {"models", "workers"},
    "telemetry": {"engines", "machine", "chat"},
    "benchmark": {"engines", "machine", "runtimes", "workers", "chat", "telemetry"},
    "evaluation": {"engines", "chat", "models", "workers"},
    "lora": {"models", "workers", "evaluation"},
    "serving": {"engines", "machine", "models", "runtimes", "chat", "lora"},
    "gateway": {"engines", "chat"},
    "webui": {"engines", "machine", "runtimes", "serving"},
    "training": {"machine", "models", "runtimes", "workers", "evaluation", "lora"},
    "course": {"machine", "runtimes", "models"},
}
"""Package -> what it may import, besides itself and common. The doors at the top (`cli`, `bootstrap`) may import all."""
MOST_FLOORS = 10
DATA = {"engines/pairs.py"}
LONG = 300


def modules() -> dict[str, Path]:
    """Dotted name below labkit -> file; a package by its folder's name."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__") or "__init__": path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules of labkit that `path` imports, wherever in it."""
    package = ["labkit", *name.split(".")] if path.name == "__init__.py" else ["labkit", *name.split(".")[:-1]]
    package = ["labkit"] if name == "__init__" else package
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            targets = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            parts = target.split(".")[1:] if target.split(".")[0] == "labkit" else []
            while parts and ".".join(parts) not in known:
                parts.pop()
            if parts and ".".join(parts) != name:
                yield ".".join(parts)


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: set(imports(name, path, known)) for name, path in known.items()}


def test_arrows_go_one_way(graph: dict[str, set[str]]) -> None:
    wrong = [
        f"{name} imports {target}"
        for name, targets in graph.items()
        for target in targets
        if (room := name.split(".")[0]) in ALLOWED and target.split(".")[0] not in {room, "common"} | ALLOWED[room]
    ]
    assert wrong == []


def test_every_package_stands_in_the_table() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ALLOWED)
    assert sorted(path.name for path in PACKAGE.glob("*.py")) == ["__init__.py", "__main__.py", "bootstrap.py", "cli.py"]


def test_no_circle_and_few_floors(graph: dict[str, set[str]]) -> None:
    floors: dict[str, int] = {}

    def floor(name: str, above: tuple[str, ...]) -> int:
        assert name not in above, f"a circle: {' -> '.join([*above, name])}"
        if name not in floors:
            floors[name] = 1 + max((floor(target, (*above, name)) for target in sorted(graph[name])), default=0)
        return floors[name]

    highest = max(graph, key=lambda name: floor(name, ()))
    assert floors[highest] <= MOST_FLOORS, f"{highest} stands on floor {floors[highest]}"


def test_no_module_is_long() -> None:
    long = {
        name: count
        for path in PACKAGE.rglob("*.py")
        if (count := len(path.read_text().splitlines())) > LONG
        for name in [str(path.relative_to(PACKAGE))]
    }
    assert {name: count for name, count in long.items() if name not in DATA} == {}


def test_torch_is_imported_in_workers_only() -> None:
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "torch" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch")
    }
    assert {name for name in found if not name.startswith("workers/")} <= {"training/pretrain.py"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "workers").glob("*_worker.py")), ids=lambda path: path.name)
def test_a_script_for_another_python_knows_little_of_labkit(path: Path) -> None:
    known = modules()
    allowed = {"workers", "chat"}
    assert {target.split(".")[0] for target in imports(f"workers.{path.stem}", path, known)} <= allowed
