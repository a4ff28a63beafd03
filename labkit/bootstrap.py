"""Makes the kernel environment `.venv` beside `lab`. Run by `./lab` with the system's Python: standard library only.

A virtual environment cannot be moved, so it is not made beside and renamed: it is whole when its stamp is there, and the
stamp is written last. Without a stamp, or with one made in another folder, everything is redone; when only the pins changed, it is
updated in place.

The Jupyter kernel `labkit` is registered twice. Inside .venv, which is what papermill, nbval and this .venv's own JupyterLab
find first. And for the user, because on a rented machine JupyterLab is started by the platform from its own conda and would
not look into .venv (`machine.kernel_spec`; every later `./lab` registers it again where it is gone). That JupyterLab also draws
the widgets, so their front end is copied beside the user's kernel unless one is there. Where the home folder cannot be written,
both are left out, with a line that says so.

Does not cover: the engines' environments (`runtimes.environments`).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if not __package__:
    sys.path[0] = str(ROOT)  # run as a file: the package's folder must not shadow the standard library

from labkit.common.errors import LabError  # noqa: E402
from labkit.common.files import write_text  # noqa: E402
from labkit.common.settings import settings  # noqa: E402
from labkit.machine import kernel_spec  # noqa: E402
from labkit.machine.pip_settings import uv_arguments, uv_environment  # noqa: E402

VENV = ROOT / ".venv"
STAMP = VENV / "labkit.stamp"
PINS = ROOT / "runtimes" / "kernel.txt"
SIZE = "0.5 GB"
MIN_FREE_BYTES = 1_200_000_000


class Stopped(Exception):
    """The environment cannot be made; the message is for the reader and holds the fix."""


def main(wanted: str) -> int:
    """Make or update .venv so that its stamp is `wanted`; 0 when it is there, 1 with a message when it cannot be."""
    try:
        with _alone():
            if not _is_whole(wanted):
                _make(wanted)
    except (Stopped, LabError) as stop:
        print(f"lab: {stop}", file=sys.stderr)
        return 1
    return 0


def _make(wanted: str) -> None:
    started = time.monotonic()
    _say(f"Making the notebook environment {VENV} ({SIZE}; once, about one to three minutes on an ordinary mirror)")
    _check_room()
    if not _same_place(wanted):
        _step("1/4 empty environment", _empty_environment)
    STAMP.unlink(missing_ok=True)
    _step("2/4 installer (uv)", _install_uv)
    _step(f"3/4 {_pin_count()} pinned packages and labkit", _install_packages)
    _step("4/4 Jupyter kernel `labkit`", _register_kernel)
    write_text(STAMP, wanted + "\n")
    _say(f"Ready after {time.monotonic() - started:.0f} s. The next call starts at once.")


def _is_whole(wanted: str) -> bool:
    return STAMP.is_file() and STAMP.read_text().strip() == wanted


def _same_place(wanted: str) -> bool:
    """Whether a whole environment is here that only needs other pins (the stamp's last two words are the checksum)."""
    if not STAMP.is_file() or not (VENV / "bin" / "python").exists():
        return False
    return STAMP.read_text().strip().rsplit(" ", 2)[0] == wanted.rsplit(" ", 2)[0]


def _check_room() -> None:
    free = shutil.disk_usage(ROOT).free
    if free < MIN_FREE_BYTES:
        raise Stopped(
            f"{ROOT} has {free / 1e9:.1f} GB free; the notebook environment needs {MIN_FREE_BYTES / 1e9:.1f} GB.\n"
            "Fix: make room, or move this folder to a larger disk (AutoDL: /root/autodl-tmp)."
        )


def _empty_environment() -> None:
    shutil.rmtree(VENV, ignore_errors=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    try:
        _run([sys.executable, "-m", "venv", str(VENV)])
    except Stopped as stop:
        raise Stopped(
            f"{sys.executable} could not make a virtual environment.\n{stop}\n"
            f"Fix: apt-get install -y python{version}-venv python{version}-dev, or point LABKIT_PYTHON at another Python 3.11 or 3.12."
        ) from None


def _install_uv() -> None:
    pin = next(line for line in PINS.read_text().splitlines() if line.startswith("uv=="))
    try:
        _run([*_pip(), "install", "--quiet", pin])
    except Stopped as stop:
        _say(f"    uv did not install; pip goes on alone (slower).\n    {str(stop).splitlines()[-1]}")


def _install_packages() -> None:
    uv = VENV / "bin" / "uv"
    if uv.exists():
        try:
            return _install_with(
                [str(uv), "pip", "install", "--compile-bytecode", "--python", str(VENV / "bin" / "python"), *uv_arguments()]
            )
        except Stopped:
            _say("    uv did not finish (its message is above); pip tries the same list.")
    try:
        _install_with([*_pip(), "install", "--progress-bar", "off"])
    except Stopped as stop:
        raise Stopped(
            f"the packages did not install.\n{stop}\n"
            "Fix: look at the message above. No network: set a mirror that works here (pip config set global.index-url <url>). "
            "Then call ./lab again; what was downloaded is kept."
        ) from None


def _install_with(install: list[str]) -> None:
    """The pins, which name every package (so nothing is resolved), then labkit itself from this folder."""
    _run([*install, "--no-deps", "-r", str(PINS)], show=True)
    _run([*install, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)], show=True)


def _register_kernel() -> None:
    install = [str(VENV / "bin" / "python"), "-m", "ipykernel", "install", "--name", "labkit", "--display-name", "labkit"]
    _run([*install, "--prefix", str(VENV)])
    try:
        kernel_spec.register(VENV)
    except OSError:
        _say(f"    Not registered for your own JupyterLab: {Path.home()} cannot be written. `./lab` and its JupyterLab work.")


def _pip() -> list[str]:
    return [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]


def _run(command: list[str], *, show: bool = False) -> None:
    """Run one command; with `show` its lines are passed on as they come, less the roll call of packages."""
    lines: list[str] = []
    with subprocess.Popen(
        command, env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            lines.append(line)
            if show and not line.startswith((" + ", " - ")):
                _say("    " + line.rstrip())
    if process.returncode:
        raise Stopped(f"`{' '.join(command[:5])} ...` ended with code {process.returncode}.\n{''.join(lines).strip()[-2000:]}")


def _environment() -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")}
    return env | uv_environment() | _uv_cache()


def _uv_cache() -> dict[str, str]:
    """uv's cache under the data home, shared with the runtimes; none at all where that cannot be written."""
    folder = Path(os.environ.get("UV_CACHE_DIR") or settings().caches / "uv")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return {"UV_NO_CACHE": "1"}
    return {"UV_CACHE_DIR": str(folder), **({} if _same_disk(folder) else {"UV_LINK_MODE": "copy"})}


def _same_disk(folder: Path) -> bool:
    return folder.stat().st_dev == VENV.parent.stat().st_dev


def _pin_count() -> int:
    return sum("==" in line and not line.startswith("#") for line in PINS.read_text().splitlines())


def _step(title: str, action: Callable[[], None]) -> None:
    started = time.monotonic()
    _say(f"  {title} ...")
    action()
    _say(f"  {title}: {time.monotonic() - started:.0f} s")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _alone() -> Iterator[None]:
    """One bootstrap at a time in this folder; the lock is the folder itself, so that no lock file is left lying."""
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("Another ./lab is making the environment; waiting for it.")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
