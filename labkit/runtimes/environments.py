"""One virtual environment per engine, made from a pinned list the first time it is needed.

    python("vllm")     the environment's Python, made first if need be
    install("vllm")    the same, with the whole answer: list, versions, how long it took
    present("vllm")    whether it is there already

An environment is made beside (`runtimes/vllm-cpu.partial-<pid>`, movable: uv's --relocatable), inspected, stamped and renamed.
What has no stamp does not count and is cleared by the next call. One install at a time: the lock is held by uv too, so a killed
notebook's uv is waited for and never shared with. Packages come from the places in pip's configuration (`machine.pip_settings`).

LABKIT_RUNTIME_<ENGINE>=<python> names an environment that is there already; it is inspected the same way, and again only
when it changed.

Covers: choosing, making, checking, replacing. Does not cover: starting anything (`serving`), the kernel's own .venv (`bootstrap`).
Used by notebook 01, and by every start of a server.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ..common.disk import existing_parent, free_bytes
from ..common.errors import InstallError, NoSpace
from ..common.files import save
from ..common.progress import Progress
from ..common.settings import settings
from . import pinned
from .inspection import Inspection, inspect, installed_version
from .installer import alone, make_environment
from .pinned import PinnedList, Tool

STAMP = "labkit-runtime.json"
VARIABLE = "LABKIT_RUNTIME_"
SPARE = 1.1
"""Room asked for, as a multiple of the environment's size."""


@dataclass(frozen=True)
class Runtime:
    """An engine's environment that is whole. `list` is "" for one that was named by LABKIT_RUNTIME_<ENGINE>; seconds to make it."""

    engine: str
    list: str
    python: Path
    versions: Mapping[str, str]
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.engine} {self.versions.get(self.engine, '')} ({self.list or 'your own environment'}): {self.python}"


def python(engine: str) -> Path:
    """The Python of `engine`'s environment; made first if needed (minutes, gigabytes, with progress). See `install` for errors."""
    return install(engine).python


def present(engine: str) -> bool:
    """Whether `engine`'s environment for this machine is there, without making or inspecting anything."""
    tool = pinned.tool(engine)
    own = named(tool.name)
    if own:
        return own.exists()
    return _made(tool, runtime_list(engine)) is not None


def runtime_list(engine: str, driver: str | None = None) -> PinnedList:
    """The pinned list for this machine, or for one with `driver` ("580.159.04"; "" without a GPU).

    Raises `InstallError` for a driver or GPU that is too old for all of them, `GpuUnusable` for a GPU that cannot be used.
    """
    chosen = pinned.tool(engine)
    return pinned.choose(chosen, driver) if driver is not None else pinned.choose(chosen, *_gpu(chosen))


def require_named(engine: str, distribution: str) -> None:
    """Raise `InstallError` if LABKIT_RUNTIME_<ENGINE> names an environment without `distribution`; our own lists pin it."""
    own = named(engine)
    if own and own.exists() and not installed_version(own, distribution):
        raise InstallError(
            f"{VARIABLE + engine.upper()}={own} has no {distribution}, which this start needs.", f"{own} -m pip install {distribution}"
        )


def named_versions(environment: Mapping[str, str]) -> dict[str, tuple[Path, str]]:
    """LABKIT_RUNTIME_<ENGINE> that is set in `environment` -> its Python, and the engine's version there ("" where it has none).

    A quarter of a second each; nothing is imported, so it says nothing on whether the environment is whole. A variable that names no
    engine has the version "?".
    """
    known = {VARIABLE + name.upper(): tool for name, tool in pinned.tools().items()}
    found = {}
    for variable in sorted(name for name in environment if name.startswith(VARIABLE) and environment[name]):
        python = Path(environment[variable]).expanduser().absolute()
        found[variable] = (python, installed_version(python, known[variable].distribution) if variable in known else "?")
    return found


def folder(row: PinnedList) -> Path:
    """Where the environment of a list lies. One folder per list, so a rented machine started without its GPU loses nothing."""
    return settings().runtimes / row.list


def install(engine: str, list_name: str = "") -> Runtime:
    """Make `engine`'s environment if it is not there, and say what it is; a second call takes no time.

    `list_name` asks for a certain list instead of the one for this machine: "vllm-cuda13" prepares, in the cheap mode without
    a GPU, what the GPU will need (its compiled code is then tried only when the GPU is there).

    Raises, before anything is written: `SettingError` (unknown name), `InstallError` (driver too old, system library missing,
    LABKIT_RUNTIME_<ENGINE> not whole), `NoSpace`. Later: `InstallError` (packages not found, no network, broken packages); an
    environment that was there stays as it was.
    """
    tool = pinned.tool(engine)
    own = named(tool.name)
    if own and not list_name:
        return _check_own(tool, own)
    row = pinned.by_name(tool, list_name) if list_name else runtime_list(engine)
    made = _made(tool, row)
    if made:
        return made
    _require_libraries(row)
    with alone(folder(row)) as lock:
        return _made(tool, row) or _make(tool, row, lock)


def _make(tool: Tool, row: PinnedList, lock: int) -> Runtime:
    final, started = folder(row), time.monotonic()
    _clear_leftovers(final)
    _require_room(row, final)
    _require_idle(final)
    partial = final.with_name(f"{final.name}.partial-{os.getpid()}")
    title = f"Making the {tool.title} environment ({row.list}, {'' if row.measured else 'about '}{row.bytes / 1e9:.1f} GB)"
    try:
        with Progress(title) as bar:
            bar.line(f"{title} in {final}: {row.why}.")
            make_environment(partial, row, bar, lock)
            bar.update(time.monotonic() - started, "checking what was installed")
            inspection = inspect(partial / "bin" / "python", tool, row, pins=row.pins(), driver=_gpu(tool)[0])
            _require_whole(
                inspection, f"The new {tool.title} environment ({row.list})", "Call it again; if it stays, report the list with this text."
            )
        made = Runtime(tool.name, row.list, final / "bin" / "python", inspection.versions, round(time.monotonic() - started, 1))
        _write_stamp(partial, row, made, inspection)
        _replace(final, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return made


def _made(tool: Tool, row: PinnedList) -> Runtime | None:
    """The environment of `row` if it is whole and made from the list as it is now."""
    environment = folder(row)
    try:
        stamp = json.loads((environment / STAMP).read_text())
    except (OSError, ValueError):
        return None
    interpreter = environment / "bin" / "python"
    if stamp.get("digest") != row.digest or not interpreter.exists():
        return None
    return Runtime(tool.name, row.list, interpreter, stamp["versions"], stamp["seconds"])


def _write_stamp(partial: Path, row: PinnedList, made: Runtime, inspection: Inspection) -> None:
    facts = {**asdict(made), "python": inspection.python, "digest": row.digest, "made": time.strftime("%Y-%m-%d %H:%M:%S")}
    save(partial / STAMP, facts)


def _replace(final: Path, partial: Path) -> None:
    """Put the new one in place; between the two renames there is none, never a mixed one."""
    old = final.with_name(f"{final.name}.partial-old-{os.getpid()}")
    if final.exists():
        final.rename(old)
    partial.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def _clear_leftovers(final: Path) -> None:
    """Whatever is unfinished belongs to a dead install: the lock says that nobody else is at it."""
    for leftover in final.parent.glob(f"{final.name}.partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _require_idle(final: Path) -> None:
    """An environment is not replaced under a running engine: it loads modules as it goes."""
    import psutil

    if not final.exists():
        return
    for process in psutil.process_iter(["pid", "cmdline"]):
        if any(word.startswith(f"{final}/") for word in process.info["cmdline"] or []):
            raise InstallError(
                f"The environment {final} must be made again (its pinned list changed), but process {process.pid} is running from it.",
                "Stop the server first: ./lab down",
            )


def _require_libraries(row: PinnedList) -> None:
    for library, package in row.libraries.items():
        try:
            ctypes.CDLL(library)
        except OSError:
            raise InstallError(
                f"The system library {library} is missing; the engine's compiled code needs it.",
                f"apt-get install -y {package}   (as root)",
            ) from None


def _require_room(row: PinnedList, final: Path) -> None:
    """Wheels are unpacked in uv's cache and linked from there: one copy if both are on one disk, else one on each."""
    cache = Path(os.environ.get("UV_CACHE_DIR") or settings().caches / "uv")
    for place in {existing_parent(place).stat().st_dev: place for place in (final, cache)}.values():
        free, need = free_bytes(place), int(row.bytes * SPARE)
        if free < need:
            raise NoSpace(
                f"The disk of {place} has {free / 1e9:.1f} GB free; {row.list} needs {need / 1e9:.1f} GB.",
                "Make room there, or set LABKIT_HOME to a folder on a larger disk.",
            )


def named(engine: str, environment: Mapping[str, str] | None = None) -> Path | None:
    """The Python that LABKIT_RUNTIME_<ENGINE> names, None where it is not set. Nothing is looked at."""
    value = (os.environ if environment is None else environment).get(VARIABLE + engine.upper())
    return Path(value).expanduser().absolute() if value else None


def _check_own(tool: Tool, own: Path) -> Runtime:
    """The environment that the user named, if it is whole. A good answer is kept until its Python or its packages change."""
    variable, driver = VARIABLE + tool.name.upper(), _gpu(tool)[0]
    note = settings().state / "runtimes" / f"{tool.name}-own.json"
    if not own.exists():
        raise InstallError(
            f"{variable} names {own}, which does not exist.", f"Set it to the Python inside your environment, or: unset {variable}"
        )
    versions = _kept(note, own, driver)
    if versions is not None:
        return Runtime(tool.name, "", own, versions)
    inspection = inspect(own, tool, pinned.choose(tool, driver), pins={}, driver=driver)
    _require_whole(inspection, f"{variable}={own}", f"Install what is missing there, or let labkit make its own: unset {variable}")
    _keep(note, own, driver, inspection)
    return Runtime(tool.name, "", own, inspection.versions)


def _kept(note: Path, own: Path, driver: str) -> dict[str, str] | None:
    try:
        answer = json.loads(note.read_text())
        if [answer["python"], answer["driver"]] != [str(own), driver] or answer["seen"] != _changes(answer["seen"]):
            return None
        return dict(answer["versions"])
    except (OSError, ValueError, KeyError):
        return None


def _keep(note: Path, own: Path, driver: str, inspection: Inspection) -> None:
    answer = {"python": str(own), "driver": driver, "seen": _changes(inspection.paths), "versions": dict(inspection.versions)}
    save(note, answer)


def _changes(paths: Mapping[str, int] | tuple[str, ...]) -> dict[str, int]:
    """Path -> time of its last change in ns; a package added or removed changes its site-packages folder."""
    return {path: Path(path).stat().st_mtime_ns for path in paths}


def _require_whole(inspection: Inspection, what: str, fix: str) -> None:
    if inspection.problems:
        raise InstallError(f"{what} is not whole: {'; '.join(inspection.problems)}.", fix)


def _gpu(tool: Tool) -> tuple[str, tuple[int, int] | None]:
    """The driver and the least compute capability of the GPUs that this process may use; "", None where it serves without one.

    A tool whose lists suit any machine (the chat page) does not depend on a GPU that can be used. Raises `GpuUnusable` for the others.
    """
    from ..machine import gpu

    if all(row.least_driver < 0 for row in tool.lists):
        return gpu.driver_version(), None
    there = gpu.visible() if gpu.device_kind() == "gpu" else []
    known = [device.capability for device in there if device.capability]
    return next((device.driver for device in there), ""), min(known, default=None)


def own_path(engine: str) -> dict[str, str]:
    """PYTHONPATH for `engine`: an environment that the kit made sees only itself; one that was named may live from it."""
    return {} if os.environ.get(VARIABLE + engine.upper()) else {"PYTHONPATH": ""}
