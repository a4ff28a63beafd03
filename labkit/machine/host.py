"""What this machine is: AutoDL or not, processor, memory, disks, GPUs, mirrors, ports, tools.

Covers: reading (`facts`). Does not cover: the verdict on it (`course.checkup`), system packages (`packages`), changing settings
(`shell`), which model fits (`models.profiles`). Nothing here is written or asked of a network.
Facts about AutoDL: the marks of the place and its disks are as students reported them in 2025; every one is looked for, none
is relied on. Used by notebook 01 and `./lab doctor`.
"""

from __future__ import annotations

import os
import platform
import shutil
import stat
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.disk import Disk, disk_of
from ..common.settings import AUTODL_DATA_DISK, CACHES, Settings, on_autodl, settings
from .packages import LIBRARIES, PACKAGES, TOOLS, loads
from .pip_settings import places
from .ports import Listener

if TYPE_CHECKING:
    from .gpu import Device
    from .kernel_spec import KernelSpec
    from .nvml import DriverFailure


NETWORK_TURBO = Path("/etc/network_turbo")


@dataclass(frozen=True)
class Processor:
    """CPU cores this process may use, and the instruction sets that vLLM asks for on a CPU."""

    name: str
    cores: int
    avx2: bool
    avx512: bool


@dataclass(frozen=True)
class Building:
    """What Triton compiles with at the first start on a GPU: it calls a C compiler, which includes Python.h and links CUDA's library.

    `headers` are those of `python`, from which the kernel's environment and those of the engines are made.
    """

    compiler: str
    headers: bool
    python: str
    cuda: bool


@dataclass(frozen=True)
class Facts:
    """Everything that `course.checkup` judges. Bytes throughout; `memory` and `memory_free` already respect a container's limit."""

    autodl: bool
    system: str
    python: str
    processor: Processor
    memory: int
    memory_free: int
    shared_memory: int
    disks: Mapping[str, Disk]
    gpus: tuple[Device, ...]
    visible: tuple[Device, ...]
    """What CUDA_VISIBLE_DEVICES leaves of them to this process, or the slice that it names."""
    package_places: tuple[str, ...]
    conda_channels: tuple[str, ...]
    hub_endpoint: str
    proxy: str
    turbo: bool
    caches: Mapping[str, Path]
    listeners: Mapping[str, Listener | None]
    tools: Mapping[str, bool]
    settings: Settings
    home_open: bool = False
    """Whether other users may write to the data home, or move what is in it."""
    shared_memory_free: int = 0
    container_limit: int = 0
    gpu_failure: DriverFailure | None = None
    """What NVML says where it fails, of all GPUs or of one."""
    gpu_problem: tuple[str, str] | None = None
    """Cause and fix where there is a GPU that this process cannot use, and nobody hid it on purpose."""
    kernel: KernelSpec | None = None
    wsl: str = ""
    """The kernel's release where this is Windows' Linux (WSL)."""
    building: Building | None = None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def driver(self) -> str:
        """The NVIDIA driver's version, "" without a GPU."""
        return next((gpu.driver for gpu in self.gpus), "")


def facts(environment: Mapping[str, str] | None = None) -> Facts:
    """Look at the machine; under a second, no network. `environment` stands in for this process's variables."""
    from . import kernel_spec, nvml
    from .gpu import devices, problem, visible
    from .ports import listener

    env = dict(os.environ if environment is None else environment)
    config = settings(env)
    memory, free, limit = free_memory()
    shared = disk_of(Path("/dev/shm")) if Path("/dev/shm").is_dir() else None
    return Facts(
        autodl=on_autodl() or bool(env.get("AutoDLContainerUUID")),
        system=_system(),
        python=f"{platform.python_version()} ({sys.prefix})",
        processor=_processor(),
        memory=memory,
        memory_free=free,
        container_limit=limit,
        shared_memory=shared.total if shared else 0,
        shared_memory_free=shared.free if shared else 0,
        home_open=_is_open(config.home),
        disks={name: disk_of(path) for name, path in _places(config).items()},
        gpus=tuple(devices()),
        visible=tuple(visible(env)),
        gpu_failure=nvml.failure(),
        gpu_problem=problem(env),
        kernel=kernel_spec.users_spec(env),
        wsl=wsl(),
        building=_building(env),
        package_places=tuple(places(env)),
        conda_channels=_conda_channels(env),
        hub_endpoint=env.get("HF_ENDPOINT", ""),
        proxy=env.get("https_proxy") or env.get("HTTPS_PROXY") or env.get("http_proxy") or env.get("HTTP_PROXY") or "",
        turbo=NETWORK_TURBO.exists(),
        caches={name: Path(env.get(name) or config.caches / folder) for name, folder in CACHES.items()},
        listeners={name: listener(port) for name, port in config.ports.items()},
        tools={name: shutil.which(name) is not None for name in TOOLS} | {PACKAGES[p]: loads(lib) for lib, p in LIBRARIES.items()},
        settings=config,
        environment=env,
    )


def free_memory() -> tuple[int, int, int]:
    """(memory, what of it is free, the container's limit or 0) in bytes; a rented container sees all of its host's elsewhere."""
    import psutil

    memory = psutil.virtual_memory()
    limit, used = _container_memory()
    if not limit:
        return memory.total, memory.available, 0
    return min(memory.total, limit), min(memory.available, max(limit - used, 0)), limit


def wsl() -> str:
    """The kernel's release on Windows' Linux (WSL), "" elsewhere; vLLM tells it by the same word."""
    release = platform.uname().release
    return release if "microsoft" in release.lower() else ""


def _building(env: Mapping[str, str]) -> Building:
    names = [env["CC"].split()[0]] if env.get("CC", "").strip() else ["gcc", "clang"]  # as Triton looks
    compiler = next((found for name in names if (found := shutil.which(name, path=env.get("PATH")))), "")
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return Building(compiler, headers.is_file(), f"Python {platform.python_version()} at {sys.base_prefix}", loads("libcuda.so.1"))


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
    info = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(info.get("flags", "").split())
    name = info.get("model name") or platform.machine()
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
    """Limit and use of this container in bytes (control groups 2, then 1); 0, 0 without a limit.

    Pages of files that were read count as used there and are given up when memory is wanted: they are taken off.
    """
    import psutil

    for limit_file, used_file in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        limit = _number(Path(limit_file))
        if 0 < limit < psutil.virtual_memory().total:
            return limit, max(0, _number(Path(used_file)) - _file_pages(Path(used_file).with_name("memory.stat")))
    return 0, 0


def _file_pages(statistics: Path) -> int:
    try:
        rows = dict(line.split(maxsplit=1) for line in statistics.read_text().splitlines() if " " in line)
        return int(rows.get("total_inactive_file") or rows.get("inactive_file") or 0)
    except (OSError, ValueError):
        return 0


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _is_open(folder: Path) -> bool:
    try:
        mode = folder.stat().st_mode
    except OSError:
        return False
    return bool(mode & 0o022) and not mode & stat.S_ISVTX  # in a sticky one each moves his own only


def _places(config: Settings) -> dict[str, Path]:
    folders = {"system disk": Path("/"), "data home": config.home, "models": config.models}
    return folders | ({"data disk": AUTODL_DATA_DISK} if on_autodl() else {})


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
