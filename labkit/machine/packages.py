"""System packages that the course needs, installed by apt where that may be done. Used by notebook 01 and the tests."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import time

from ..common.errors import InstallError
from ..common.progress import Progress

TOOLS = ("git", "git-lfs", "curl", "tmux")
LIBRARIES = {"libnuma.so.1": "libnuma1"}
PACKAGES = {"git": "git", "git-lfs": "git-lfs", "curl": "curl", "tmux": "tmux", "libnuma1": "libnuma1", "gcc": "gcc"} | {
    "chromium": "chromium",  # these three for the tests of the kit only
    "ssh": "openssh-client",
    "sshd": "openssh-server",
}
"""Tool -> its Debian and Ubuntu package."""
APT_SECONDS = 600


def install_tools(names: list[str]) -> list[str]:
    """Install the system packages of `names` (of `git`, `git-lfs`, `curl`, `tmux`, `gcc`, `libnuma1`) that are missing; return those.

    Does nothing, at once, when all are there. Needs root and apt (as on AutoDL): otherwise `InstallError` with the line to run.
    """
    unknown = [name for name in names if name not in PACKAGES]
    if unknown:
        raise InstallError(f"There is no known package for {', '.join(unknown)}.", f"Use names of: {', '.join(PACKAGES)}.")
    missing = [name for name in names if not has(name)]
    if not missing:
        return []
    packages = [PACKAGES[name] for name in missing]
    line = f"apt-get install -y {' '.join(packages)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise InstallError(f"Missing: {', '.join(missing)}. Only root can install with apt-get here.", f"Ask for, or run as root: {line}")
    _apt(packages, line)
    left = [name for name in missing if not has(name)]
    if left:
        raise InstallError(f"apt-get ended well, but {', '.join(left)} cannot be found.", f"Run it in a terminal and look: {line}")
    return missing


def _apt(packages: list[str], line: str) -> None:
    """Package lists are fetched first only when the plain install fails: on a fresh container they are empty."""
    with Progress(f"Installing {', '.join(packages)} (apt-get)") as bar:
        if _run_apt(["install", "-y", "--no-install-recommends", *packages], bar) == "":
            return
        _run_apt(["update"], bar)
        problem = _run_apt(["install", "-y", "--no-install-recommends", *packages], bar)
        if problem:
            raise InstallError(
                f"apt-get could not install {', '.join(packages)}: {problem}", f"Run it in a terminal: apt-get update && {line}"
            )


def _run_apt(argv: list[str], bar: Progress) -> str:
    """Run apt-get with the bar ticking; "" when it went well, else its last lines."""
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        process = subprocess.Popen(["apt-get", "-q", *argv], env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            if time.monotonic() - started > APT_SECONDS:
                process.terminate()
                process.wait()
                return f"no end after {APT_SECONDS} s"
            time.sleep(0.2)
            bar.update(time.monotonic() - started, f"apt-get {argv[0]}")
        output.seek(0)
        return "" if process.returncode == 0 else " ".join(output.read().strip().splitlines()[-3:]) or f"code {process.returncode}"


def has(name: str) -> bool:
    """Whether the tool or library package `name` is there."""
    library = next((file for file, package in LIBRARIES.items() if package == name), None)
    return loads(library) if library else shutil.which(name) is not None


def loads(library: str) -> bool:
    """Whether the dynamic linker finds and loads `library` ("libnuma.so.1")."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
