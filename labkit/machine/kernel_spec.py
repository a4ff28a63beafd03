"""The Jupyter kernel `labkit` as the user's JupyterLab finds it: registered, gone, or leading to a Python that is gone.

On a rented machine JupyterLab is started by the platform from its own conda and looks into the home folder, which lies on the system
disk: a new image, or an instance cloned with its data disk, has the clone and its .venv and no kernel. So does a machine whose clone that
registered last was deleted. `restore` puts it right from the copy inside .venv; one that leads to another clone's living Python is left.

Standard library only: `bootstrap` uses it. Covers: the user's specification and the widgets' front end beside it. Does not cover: the
one inside .venv, which `bootstrap` makes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..common.files import draft

NAME = "labkit"
BELOW = Path("share", "jupyter")
"""Of a prefix (a .venv): where Jupyter's files are."""
WIDGETS = Path("labextensions", "@jupyter-widgets")


@dataclass(frozen=True)
class KernelSpec:
    """One registered kernel: its file, and the Python that it starts ("" where the file does not say)."""

    file: Path
    python: str

    @property
    def alive(self) -> bool:
        """Whether that Python is there."""
        return bool(self.python) and shutil.which(self.python) is not None


def users_spec(environment: Mapping[str, str] | None = None) -> KernelSpec | None:
    """The kernel that the user's JupyterLab finds, None without one."""
    return _spec(_user_folder(environment))


def restore(prefix: Path, environment: Mapping[str, str] | None = None) -> str:
    """Register the kernel of the environment at `prefix` again if the user's is gone or leads nowhere; what was done, "" for nothing.

    Nothing is done either where `prefix` has no living kernel of its own, or where the home folder cannot be written.
    """
    found = users_spec(environment)
    own = _spec(prefix / BELOW)
    if own is None or not own.alive or (found is not None and found.alive):
        return ""
    try:
        file = register(prefix, environment)
    except OSError:
        return ""
    why = f"led to {found.python or 'nothing'}, which is not there" if found else "was not registered for your JupyterLab"
    return f"The Jupyter kernel `{NAME}` {why}; it is now: {file}. Reload JupyterLab's page."


def register(prefix: Path, environment: Mapping[str, str] | None = None) -> Path:
    """Make the kernel of the environment at `prefix` the user's, with the widgets' front end. Raises OSError where home is not writable."""
    user = _user_folder(environment)
    place = user / "kernels" / NAME
    place.parent.mkdir(parents=True, exist_ok=True)
    with draft(place, "kernel") as made:
        shutil.copytree(prefix / BELOW / "kernels" / NAME, made, dirs_exist_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        if place.is_symlink() or place.is_file():
            place.unlink()
    _share_widgets(prefix, user)
    return place / "kernel.json"


def _share_widgets(prefix: Path, user: Path) -> None:
    """For a JupyterLab that runs from elsewhere; without it progress bars and live plots stay blank there."""
    ours, theirs = prefix / BELOW / WIDGETS, user / WIDGETS
    if ours.is_dir() and not theirs.exists():
        theirs.parent.mkdir(parents=True, exist_ok=True)
        with draft(theirs, "widgets") as made:
            shutil.copytree(ours, made, dirs_exist_ok=True)


def _spec(data: Path) -> KernelSpec | None:
    file = data / "kernels" / NAME / "kernel.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return KernelSpec(file, "")
    argv = content.get("argv") if isinstance(content, dict) else None
    return KernelSpec(file, str(argv[0]) if isinstance(argv, list) and argv else "")


def _user_folder(environment: Mapping[str, str] | None) -> Path:
    """Jupyter's own rule on Linux (jupyter_core.paths)."""
    env = os.environ if environment is None else environment
    if env.get("JUPYTER_DATA_DIR"):
        return Path(env["JUPYTER_DATA_DIR"])
    home = Path(env.get("HOME") or Path.home())
    return Path(env.get("XDG_DATA_HOME") or home / ".local" / "share") / "jupyter"
