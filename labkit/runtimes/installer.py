"""Runs uv: an empty environment, then a pinned list into it, with its lines shown as progress.

Covers: uv's command lines and environment, one install at a time, distribution names that a wheel leaves out.
Does not cover: which list, where it ends up, whether it works (`environments`, `inspection`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from ..common.errors import InstallError
from ..common.files import write_text
from ..common.locks import locked
from ..common.progress import Progress
from ..common.settings import settings
from ..machine.pip_settings import places, uv_arguments, uv_environment
from .pinned import PinnedList

TICK_SECONDS = 0.5


@contextmanager
def alone(folder: Path) -> Iterator[int]:
    """Held while the environment in `folder` is made. Waits, saying for whom, when another process holds it.

    Yields the descriptor of `<folder>.lock`, for uv to hold the lock too: it then outlives us if we are killed.
    """
    with ExitStack() as waiting:
        bars: list[Progress] = []

        def tell(owner: str, seconds: float) -> None:
            if not bars:
                bars.append(waiting.enter_context(Progress(f"Waiting for process {owner}, which is making the same environment")))
            bars[0].update(seconds)

        with locked(folder.with_name(f"{folder.name}.lock"), on_wait=tell) as descriptor:
            waiting.close()
            yield descriptor


def make_environment(folder: Path, row: PinnedList, bar: Progress, lock: int) -> None:
    """Make a movable virtual environment in `folder` and install the list into it. Raises `InstallError` with uv's own words.

    `lock` is the descriptor that `alone` gives.
    """
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
        write_text(site / path, source.read_text())


def _uv() -> str:
    try:
        from uv import find_uv_bin

        return str(find_uv_bin())
    except (ImportError, FileNotFoundError):
        raise InstallError("uv is missing from the notebook environment.", f"{sys.executable} -m pip install uv") from None


def _run(command: list[str], bar: Progress, lock: int, row: PinnedList) -> None:
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
        pass_fds=(lock,),
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
