"""Is this environment whole? Asked of the environment's own Python, in one short process.

Importing an engine takes 20 s, so it is not done. What is done takes about 3 s and finds what really breaks: a package of the list
that is missing, torch that does not import or is built for another device, compiled code that does not fit torch or lacks a
system library.

Covers: the question and the answer. Does not cover: what to do about it (`environments`), shared libraries before an install.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .pinned import PinnedList, Tool

SECONDS = 180
"""A cold disk on a rented machine reads torch at tens of MB/s."""
MARK = "labkit-inspection:"

SCRIPT = r"""
import importlib.metadata as metadata, importlib.util as util, json, os, sys
ask = json.loads(sys.argv[1])
problems, versions = [], {}

def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None

def attempt(what, action):
    try:
        return action()
    except BaseException as error:
        problems.append(f"{what}: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}")

missing = [name for name in [ask["distribution"], *ask["needs"], *ask["pins"]] if version(name) is None]
if missing:
    problems.append("not installed: " + ", ".join(dict.fromkeys(missing)))
for name in [ask["distribution"], *ask["needs"]]:
    versions[name] = version(name) or ""
root = attempt(ask["package"], lambda: util.find_spec(ask["package"]))
place = list(root.submodule_search_locations or [])[0] if root and root.submodule_search_locations else ""
if ask["module"] and place:
    parts = ask["module"].split(".")[1:]
    if parts and not any(os.path.exists(os.path.join(place, *parts) + end) for end in (".py", "/__main__.py", "/__init__.py")):
        problems.append(f"{ask['module']} is not there")
if "torch" in ask["needs"] and versions["torch"]:
    torch = attempt("torch does not import", lambda: __import__("torch"))
    if torch:
        built = (torch.version.cuda or "").split(".")[0]
        if ask["cuda"] != "any" and built != ask["cuda"]:
            name = lambda word: f"CUDA {word}" if word else "the CPU"
            problems.append(f"torch {torch.__version__} is built for {name(built)}, this machine's list needs {name(ask['cuda'])}")
        elif ask["device"] and not attempt("torch.cuda", torch.cuda.is_available):
            problems.append(f"torch {torch.__version__} cannot use the GPU with this driver")
        elif not built or ask["device"]:
            there = [os.path.join(place, name) for name in ask["extensions"] if place and os.path.exists(os.path.join(place, name))]
            if there:
                attempt(f"{there[0]} does not load", lambda: torch.ops.load_library(there[0]))
paths = sorted({sys.executable, *(path for path in sys.path if os.path.isdir(path))})
python = ".".join(map(str, sys.version_info[:3]))
print(ask["mark"] + json.dumps({"problems": problems, "versions": versions, "python": python, "paths": paths}))
"""


@dataclass(frozen=True)
class Inspection:
    """What was seen: `problems` empty means whole; `versions` of engine and libraries; `paths` whose change asks for a new look."""

    problems: tuple[str, ...]
    versions: Mapping[str, str]
    python: str = ""
    paths: tuple[str, ...] = ()


def inspect(python: Path, tool: Tool, row: PinnedList, *, pins: Mapping[str, str], driver: str) -> Inspection:
    """Look into the environment of `python`. `pins`: packages that must all be there (empty for a foreign environment).

    A machine with a GPU (`driver` not "") also tries the GPU; a foreign environment may be built for any CUDA that works.
    Never raises for what it finds; a Python that cannot be run is a problem like any other.
    """
    cuda = "any" if driver and not pins else row.cuda
    request = {
        "package": tool.package,
        "module": tool.module,
        "distribution": tool.distribution,
        "needs": tool.needs,
        "pins": list(pins),
        "cuda": cuda,
        "device": bool(driver and row.cuda),
        "extensions": row.extensions,
        "mark": MARK,
    }
    env = os.environ | {"PYTHONSAFEPATH": "1"}
    if pins:
        env.pop("PYTHONPATH", None)  # our own environment must be whole without it; a foreign one may need it
    try:
        done = subprocess.run(
            [str(python), "-c", SCRIPT, json.dumps(request)], cwd="/", env=env, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except OSError as error:
        return Inspection((f"{python} cannot be run: {error.strerror}",), {})
    except subprocess.TimeoutExpired:
        return Inspection((f"importing torch took more than {SECONDS} s",), {})
    return _inspection(done)


def _inspection(done: subprocess.CompletedProcess[str]) -> Inspection:
    answers = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if not answers:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return Inspection((f"its Python ended with code {done.returncode}: {last}",), {})
    answer = json.loads(answers[-1].removeprefix(MARK))
    return Inspection(tuple(answer["problems"]), answer["versions"], answer["python"], tuple(answer["paths"]))


def installed_version(python: Path, distribution: str) -> str:
    """The version of a distribution as the environment of `python` has it on record; "" without it, or if that Python cannot be run."""
    ask = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    try:
        done = subprocess.run([str(python), "-c", ask, distribution], cwd="/", capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
