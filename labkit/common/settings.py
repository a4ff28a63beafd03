"""Where things live, which ports and keys are used: one object, read from the environment and sensible defaults.

Covers: the data home (on AutoDL the data disk, because the system disk has 30 GB), caches, ports, keys, who owns a server.
Does not cover: what the machine is (`machine.host`) or what a model needs (`models.profiles`). Standard library only:
`bootstrap` reads them before anything is installed.

Settings a student can export (all optional):
    LABKIT_HOME       data home: runtimes, models, caches, logs, state   (AutoDL: /root/autodl-tmp/labkit-data, else ~/.labkit)
    LABKIT_PROFILE    course model when a notebook says "auto"
    LABKIT_OWNER      "lab": servers outlive the notebook kernel; "kernel": they end with it
    LABKIT_PORT_VLLM, LABKIT_PORT_SGLANG, LABKIT_PORT_WEBUI
    LABKIT_RUNTIME_VLLM=<python>   use an environment that is already there (see `runtimes.environments`)
Caches that are already set (HF_HOME and the like) are left as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .errors import SettingError

AUTODL_DATA_DISK = Path("/root/autodl-tmp")
CLONE = Path(__file__).resolve().parents[2]
"""The folder that git made, with `lab` in it."""
PORTS = {"vllm": 8000, "sglang": 30000, "open_webui": 8080}
PORT_VARIABLES = {"vllm": "LABKIT_PORT_VLLM", "sglang": "LABKIT_PORT_SGLANG", "open_webui": "LABKIT_PORT_WEBUI"}
OWNERS = ("lab", "kernel")

CACHES = {
    "HF_HOME": "huggingface",
    "MODELSCOPE_CACHE": "modelscope",
    "VLLM_CACHE_ROOT": "vllm",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "SGLANG_CACHE_DIR": "sglang",
    "SGLANG_DG_CACHE_DIR": "deep_gemm",
    "UV_CACHE_DIR": "uv",
}
"""Environment variable of each cache and its folder under `Settings.caches`.

FlashInfer puts `.cache/flashinfer` below its workspace base; uv's cache lies on the disk of the runtimes so that it can
hard-link instead of copy.
"""


@dataclass(frozen=True)
class Settings:
    """Folders, ports and owner in force. Nothing is created by reading them; whoever writes makes the folder."""

    home: Path
    profile: str = "auto"
    owner: str = "lab"
    ports: Mapping[str, int] = field(default_factory=lambda: dict(PORTS))

    @property
    def models(self) -> Path:
        """Downloaded and made models, one folder each."""
        return self.home / "models"

    @property
    def runtimes(self) -> Path:
        """One virtual environment per engine."""
        return self.home / "runtimes"

    @property
    def caches(self) -> Path:
        """Everything that may be deleted at the price of a slower second time."""
        return self.home / "caches"

    @property
    def logs(self) -> Path:
        """Standard and error logs of the servers."""
        return self.home / "logs"

    @property
    def state(self) -> Path:
        """Who runs, under which process, and the keys."""
        return self.home / "state"

    def cache_environment(self, environment: Mapping[str, str] | None = None) -> dict[str, str]:
        """The cache variables that are not set yet in `environment` (default: this process's), with their folders."""
        current = os.environ if environment is None else environment
        return {name: str(self.caches / folder) for name, folder in CACHES.items() if not current.get(name)}


def on_autodl() -> bool:
    """Whether this is an AutoDL instance: its data disk is mounted. (facts: the platform gives no better mark.)"""
    return AUTODL_DATA_DISK.is_dir()


def settings(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings in force, read afresh from `environment` (default: this process's).

    Raises `SettingError` for an owner or port that cannot be used, and on AutoDL for a clone that takes up the whole data disk,
    before anything is written.
    """
    env = os.environ if environment is None else environment
    return Settings(
        home=_home(env),
        profile=env.get("LABKIT_PROFILE") or "auto",
        owner=_owner(env.get("LABKIT_OWNER") or "lab"),
        ports={engine: _port(env.get(name), name, PORTS[engine]) for engine, name in PORT_VARIABLES.items()},
    )


def _home(env: Mapping[str, str]) -> Path:
    if env.get("LABKIT_HOME"):
        return Path(env["LABKIT_HOME"]).expanduser().absolute()
    return _autodl_home() if on_autodl() else Path.home() / ".labkit"


def _autodl_home() -> Path:
    """A folder on the data disk that is not the clone and not in it. Earlier it was `labkit`, the name that a clone has."""
    earlier, home = AUTODL_DATA_DISK / "labkit", AUTODL_DATA_DISK / "labkit-data"
    if _is_home(earlier):
        return earlier
    if home.resolve().is_relative_to(CLONE):
        raise SettingError(
            f"The data home {home} would lie inside the clone {CLONE}, where cleaning up the clone deletes it.",
            "Move the clone into a folder of its own beside it, for example labkit-course; or export LABKIT_HOME=<folder outside it>",
        )
    return home


def _is_home(folder: Path) -> bool:
    """Whether a data home was begun at `folder`, in a clone too: what was downloaded there is not downloaded again.

    A clone has none of these folders; it has a `runtimes`, as a home does. The package itself has a `models`.
    """
    return not (folder / "__init__.py").exists() and any((folder / name).is_dir() for name in ("state", "models", "caches"))


def _owner(value: str) -> str:
    if value not in OWNERS:
        raise SettingError(f"LABKIT_OWNER is {value!r}.", 'Use "lab" (servers outlive the kernel) or "kernel" (they end with it).')
    return value


def _port(value: str | None, name: str, default: int) -> int:
    if not value:
        return default
    if not value.isdigit() or not 1024 <= int(value) <= 65535:
        raise SettingError(f"{name} is {value!r}, which is no port for a program of yours.", f"export {name}=<1024 to 65535>")
    return int(value)
