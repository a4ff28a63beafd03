"""Who may import whom, held against the imports, those inside functions and for typing included; docs/architecture.md says the same."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "labkit"
PAGE = ROOT / "docs" / "architecture.md"
ALLOWED: dict[str, set[str]] = {
    "common": set(),
    "failures": set(),
    "engines": {"failures"},
    "machine": set(),
    "models": {"machine"},
    "runtimes": {"machine"},
    "chat": {"engines"},
    "workers": {"failures", "runtimes", "chat"},
    "hub": {"models", "workers"},
    "telemetry": {"engines", "machine", "chat"},
    "benchmark": {"failures", "engines", "machine", "runtimes", "workers", "chat", "telemetry"},
    "evaluation": {"engines", "chat", "models", "workers"},
    "lora": {"models", "workers", "evaluation"},
    "serving": {"failures", "engines", "machine", "models", "runtimes", "chat", "lora"},
    "gateway": {"engines", "chat"},
    "webui": {"failures", "engines", "machine", "runtimes", "serving"},
    "training": {"failures", "machine", "models", "runtimes", "workers", "evaluation", "lora"},
    "course": {"machine", "runtimes"},
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


def test_the_page_shows_every_module_once_and_no_other() -> None:
    """A module that was added, split or renamed wants its line in the tree of docs/architecture.md: two spaces a level, a slash
    behind a package, and a few words on what it is."""
    tree = PAGE.read_text().partition("\nlabkit/")[2].partition("```")[0]
    shown, package = Counter[str](), ""
    for indent, name, slash in re.findall(r"^( +)(\w+)(/?) +\S", tree, re.MULTILINE):
        package = name if len(indent) == 2 else package
        shown[name if len(indent) == 2 else f"{package}.{name}"] += 1
        assert bool(slash) == (name in ALLOWED and len(indent) == 2), f"{name}: a slash stands behind a package and nothing else"
    wanted = Counter(modules().keys() - {"__init__"})
    assert (sorted(wanted - shown), sorted(shown - wanted)) == ([], []), "(not on the page, not there or twice)"


def test_the_page_has_the_same_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|$", PAGE.read_text().partition("## Who may import whom")[2], re.MULTILINE)
    assert {name: set(re.findall(r"`(\w+)`", may)) for name, may in rows} == ALLOWED


def test_names_with_an_underscore_stay_in_their_module() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        own = [node for node in nodes if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("labkit"))]
        brought = {alias.asname or alias.name for node in own for alias in node.names}
        of_a_module = {
            f"{node.value.id}.{node.attr}"
            for node in nodes
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in brought and private(node.attr)
        }
        wrong += [f"{path.relative_to(PACKAGE)}: {name}" for name in sorted(of_a_module | set(filter(private, brought)))]
    assert wrong == []


def private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


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
    targets = set(imports(f"workers.{path.stem}", path, modules()))
    assert {target for target in targets if not target.startswith("workers.")} <= {"chat.reasoning"}


def test_one_class_name_has_one_meaning() -> None:
    places: dict[str, list[str]] = {}
    for name, path in modules().items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(name)
    assert {name: there for name, there in places.items() if len(there) > 1} == {}


@pytest.mark.parametrize("door", sorted(PACKAGE.rglob("__init__.pyi")), ids=lambda path: path.parent.name)
def test_no_name_of_a_door_is_hidden_by_a_module(door: Path) -> None:
    """Importing a module makes it an attribute of its package: a function of that name could be had only until then."""
    inside = {path.stem for path in door.parent.glob("*.py")} | {path.parent.name for path in door.parent.glob("*/__init__.py")}
    names = re.findall(r"^from \.+[\w.]+ import (\w+) as", door.read_text(), re.MULTILINE)
    assert not inside & set(names)
