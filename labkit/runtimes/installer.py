"""Runs uv: an empty environment, then a pinned list into it, with its lines shown as progress.

Covers: uv's command lines and environment, the lock that uv holds together with us, distribution names that a wheel leaves out.
Does not cover: which list, where it ends up, whether it works (`runtimes`, `inspection`).
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from ..common.errors import InstallError
from ..common.progress import Progress
from ..common.settings import settings
from ..machine.pip_settings import places, uv_arguments, uv_environment
from .pinned import PinnedList

TICK_SECONDS = 0.5


class Lock:
    """Held while one environment is made: `with Lock(folder)`. Waits, saying for whom, when another process holds it.

    The file `<folder>.lock` stays; the lock on it goes with the last process that has it open, which is uv if we are killed.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder.with_name(f"{folder.name}.lock")
        self._descriptor = -1

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        if not self._try():
            with Progress(f"Waiting for process {self._owner()}, which is making the same environment") as bar:
                started = time.monotonic()
                while not self._try():
                    time.sleep(TICK_SECONDS)
                    bar.update(time.monotonic() - started)
        os.truncate(self._descriptor, 0)
        os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._descriptor)

    def fileno(self) -> int:
        """The open lock file, for a child that shall hold the lock too."""
        return self._descriptor

    def _try(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _owner(self) -> str:
        return os.pread(self._descriptor, 20, 0).decode() or "(unknown)"


def make_environment(folder: Path, row: PinnedList, bar: Progress, lock: Lock) -> None:
    """Make a movable virtual environment in `folder` and install the list into it. Raises `InstallError` with uv's own words."""
    uv = _uv()
    base = getattr(sys, "_base_executable", None) or sys.executable
    _run([uv, "venv", "--relocatable", "--no-project", "--python", base, str(folder)], bar, lock, row)
    install = [
        uv,
        "pip",
        "install",
        "--no-config",
        "--python",
        str(folder / "bin" / "python"),
        "--no-deps",
        "--compile-bytecode",  # an engine imports thousands of files: compiled once here, every start takes half as long
        *uv_arguments(),
        "-r",
        str(row.file),
    ]
    try:
        _run(install, bar, lock, row)
    except InstallError:
        if not row.fallback:
            raise
        bar.line(f"Not all of it is at the configured places; asking {row.fallback} too.")
        _run([*install, "--index", row.fallback], bar, lock, row)
    if row.supply:
        _supply(folder, row.supply["name"], row.supply["version"])
    _overlay(folder, row)


def _supply(folder: Path, name: str, version: str) -> None:
    """A distribution of nothing but its name: the wheel has the engine's code under another name than the engine asks for."""
    site = next(folder.glob("lib/python3.*/site-packages"))
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    files = {"METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", "INSTALLER": "labkit\n"}
    for file, text in files.items():
        (info / file).write_text(text)
    (info / "RECORD").write_text("".join(f"{info.name}/{file},,\n" for file in [*files, "RECORD"]))


def _overlay(folder: Path, row: PinnedList) -> None:
    """Put the list's own files in the place of packages' files. By rename: the old ones are hard links into uv's cache."""
    site = next(folder.glob("lib/python3.*/site-packages"))
    for path, source in row.overlaid().items():
        draft = site / path.with_name(f"{path.name}.labkit")
        draft.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(source.read_text())
        draft.replace(site / path)


def _uv() -> str:
    try:
        from uv import find_uv_bin

        return str(find_uv_bin())
    except (ImportError, FileNotFoundError):
        raise InstallError("uv is missing from the notebook environment.", f"{sys.executable} -m pip install uv") from None


def _run(command: list[str], bar: Progress, lock: Lock, row: PinnedList) -> None:
    """Run uv to its end, its last line being the bar's note. Interrupted, it is ended too."""
    lines: deque[str] = deque(maxlen=40)
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        pass_fds=(lock.fileno(),),
    )
    assert process.stdout is not None
    reader = threading.Thread(target=_collect, args=(process.stdout, lines), daemon=True)
    reader.start()
    try:
        while not _ended(process):
            bar.update(time.monotonic() - started, lines[-1] if lines else "")
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        reader.join(timeout=5)
    if process.returncode:
        raise InstallError(f"uv ended with code {process.returncode} while installing {row.list}:\n{chr(10).join(lines)}", _advice())


def _ended(process: subprocess.Popen[str]) -> bool:
    """Wait one tick for the end, and say whether it came."""
    try:
        process.wait(TICK_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _collect(stream: IO[str], lines: deque[str]) -> None:
    for line in stream:
        text = line.strip()
        if text and not text.startswith(("+ ", "- ")):
            lines.append(text)


def _environment() -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX")}
    env |= uv_environment()
    env.setdefault("UV_CACHE_DIR", str(settings().caches / "uv"))
    cache, runtimes = Path(env["UV_CACHE_DIR"]), settings().runtimes
    cache.mkdir(parents=True, exist_ok=True)
    if cache.stat().st_dev != runtimes.stat().st_dev:
        env["UV_LINK_MODE"] = "copy"
    return env


def _advice() -> str:
    return (
        f"These places were asked: {', '.join(places())}. If one does not answer, set a mirror that does "
        "(pip config set global.index-url <url>); labkit follows pip's configuration. Then call it again: what arrived is kept."
    )
