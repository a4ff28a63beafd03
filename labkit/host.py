"""What this machine is: AutoDL or not, processor, memory, disks, GPUs, mirrors, ports, tools.

Covers: reading (`facts`), the verdict on it (`doctor`; the rules are in `report`), system packages (`install_tools`).
Does not cover: changing settings (`shell`), which model fits (`profiles`). Nothing here is written or asked of a network.
Facts about AutoDL: the marks of the place and its disks are as students reported them in 2025; every one is looked for, none
is relied on. Used by notebook 01 and `./lab doctor`.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InstallError
from .pip_settings import places
from .ports import Listener
from .progress import Progress
from .settings import AUTODL_DATA_DISK, CACHES, Settings, on_autodl, settings

if TYPE_CHECKING:
    from .gpu import Device
    from .report import Report

NETWORK_TURBO = Path("/etc/network_turbo")
TOOLS = ("git", "git-lfs", "curl", "tmux")
LIBRARIES = {"libnuma.so.1": "libnuma1"}
PACKAGES = {"git": "git", "git-lfs": "git-lfs", "curl": "curl", "tmux": "tmux", "libnuma1": "libnuma1"} | {
    "chromium": "chromium",  # these three for the tests of the kit only
    "ssh": "openssh-client",
    "sshd": "openssh-server",
}
"""Tool -> its Debian and Ubuntu package."""
APT_SECONDS = 600


@dataclass(frozen=True)
class Disk:
    """The file system under `path`; bytes. `device` tells two paths on one disk from two disks."""

    path: Path
    total: int
    free: int
    device: int


@dataclass(frozen=True)
class Processor:
    """CPU cores this process may use, and the instruction sets that vLLM asks for on a CPU."""

    name: str
    cores: int
    avx2: bool
    avx512: bool


@dataclass(frozen=True)
class Facts:
    """Everything doctor judges. Bytes throughout; `memory` and `memory_free` already respect a container's limit."""

    autodl: bool
    system: str
    python: str
    processor: Processor
    memory: int
    memory_free: int
    shared_memory: int
    disks: Mapping[str, Disk]
    gpus: tuple[Device, ...]
    package_places: tuple[str, ...]
    conda_channels: tuple[str, ...]
    hub_endpoint: str
    proxy: str
    turbo: bool
    caches: Mapping[str, Path]
    listeners: Mapping[str, Listener | None]
    tools: Mapping[str, bool]
    settings: Settings
    container_limit: int = 0
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def driver(self) -> str:
        """The NVIDIA driver's version, "" without a GPU."""
        return next((gpu.driver for gpu in self.gpus), "")


def facts(environment: Mapping[str, str] | None = None) -> Facts:
    """Look at the machine; under a second, no network. `environment` stands in for this process's variables."""
    import psutil

    from .gpu import devices
    from .ports import listener

    env = dict(os.environ if environment is None else environment)
    where = settings(env)
    limit, used = _container_memory()
    memory = psutil.virtual_memory()
    return Facts(
        autodl=on_autodl() or bool(env.get("AutoDLContainerUUID")),
        system=_system(),
        python=f"{platform.python_version()} ({sys.prefix})",
        processor=_processor(),
        memory=min(memory.total, limit or memory.total),
        memory_free=min(memory.available, limit - used) if limit else memory.available,
        container_limit=limit,
        shared_memory=_disk(Path("/dev/shm")).total if Path("/dev/shm").is_dir() else 0,
        disks={name: _disk(path) for name, path in _places(where).items()},
        gpus=tuple(devices()),
        package_places=tuple(places(env)),
        conda_channels=_conda_channels(env),
        hub_endpoint=env.get("HF_ENDPOINT", ""),
        proxy=env.get("https_proxy") or env.get("HTTPS_PROXY") or env.get("http_proxy") or env.get("HTTP_PROXY") or "",
        turbo=NETWORK_TURBO.exists(),
        caches={name: Path(env.get(name) or where.caches / folder) for name, folder in CACHES.items()},
        listeners={name: listener(port) for name, port in where.ports.items()},
        tools={name: shutil.which(name) is not None for name in TOOLS} | {PACKAGES[p]: _loads(lib) for lib, p in LIBRARIES.items()},
        settings=where,
        environment=env,
    )


def doctor() -> Report:
    """A verdict and, where needed, a fix for every fact. `print(report.text())` in a terminal; shown as a table in a notebook."""
    from .report import judge

    return judge(facts())


def install_tools(names: list[str]) -> list[str]:
    """Install the system packages of `names` (of `git`, `git-lfs`, `curl`, `tmux`, `libnuma1`) that are missing; return those.

    Does nothing, at once, when all are there. Needs root and apt (as on AutoDL): otherwise `InstallError` with the line to run.
    """
    unknown = [name for name in names if name not in PACKAGES]
    if unknown:
        raise InstallError(f"There is no known package for {', '.join(unknown)}.", f"Use names of: {', '.join(PACKAGES)}.")
    missing = [name for name in names if not _has(name)]
    if not missing:
        return []
    packages = [PACKAGES[name] for name in missing]
    line = f"apt-get install -y {' '.join(packages)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise InstallError(f"Missing: {', '.join(missing)}. Only root can install with apt-get here.", f"Ask for, or run as root: {line}")
    _apt(packages, line)
    left = [name for name in missing if not _has(name)]
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


def _run_apt(words: list[str], bar: Progress) -> str:
    """Run apt-get with the bar ticking; "" when it went well, else its last lines."""
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        process = subprocess.Popen(["apt-get", "-q", *words], env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            if time.monotonic() - started > APT_SECONDS:
                process.terminate()
                process.wait()
                return f"no end after {APT_SECONDS} s"
            time.sleep(0.2)
            bar.update(time.monotonic() - started, f"apt-get {words[0]}")
        output.seek(0)
        return "" if process.returncode == 0 else " ".join(output.read().strip().splitlines()[-3:]) or f"code {process.returncode}"


def _has(name: str) -> bool:
    library = next((file for file, package in LIBRARIES.items() if package == name), None)
    return _loads(library) if library else shutil.which(name) is not None


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.platform(terse=True)


def _processor() -> Processor:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(said.get("flags", "").split())
    name = said.get("model name") or platform.machine()
    return Processor(name, _cores(), avx2="avx2" in flags, avx512={"avx512f", "avx512bw", "avx512vl"} <= flags)


def _cores() -> int:
    """Cores this process may run on, cut to the container's share of time: a rented container sees all of the host's."""
    allowed = len(os.sched_getaffinity(0))
    quota = _container_cores()
    return min(allowed, max(1, round(quota))) if quota else allowed


def _container_cores() -> float:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return 0.0 if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        quota_us = _number(Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))
        return quota_us / (_number(Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")) or 100_000) if quota_us > 0 else 0.0


def _container_memory() -> tuple[int, int]:
    """Limit and use of this container in bytes (control groups 2, then 1); 0, 0 without a limit."""
    import psutil

    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        most = _number(Path(limit))
        if 0 < most < psutil.virtual_memory().total:
            return most, _number(Path(used))
    return 0, 0


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _places(where: Settings) -> dict[str, Path]:
    found = {"system disk": Path("/"), "data home": where.home, "models": where.models}
    return found | ({"data disk": AUTODL_DATA_DISK} if on_autodl() else {})


def _disk(path: Path) -> Disk:
    existing = path
    while not existing.exists():
        existing = existing.parent
    usage = shutil.disk_usage(existing)
    return Disk(path, usage.total, usage.free, existing.stat().st_dev)


def _conda_channels(env: Mapping[str, str]) -> tuple[str, ...]:
    """The channels of the user's .condarc, which is where AutoDL presets its mirrors (read line by line: no YAML reader needed)."""
    try:
        lines = (Path(env.get("HOME") or Path.home()) / ".condarc").read_text().splitlines()
    except OSError:
        return ()
    channels, inside = [], False
    for line in lines:
        if line.startswith("channels:"):
            inside = True
        elif inside and line.strip().startswith("- "):
            channels.append(line.strip()[2:].strip())
        elif line and not line.startswith((" ", "-")):
            inside = False
    return tuple(channels)
