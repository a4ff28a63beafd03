"""What `serve` is given as a model: a profile, a folder or a hub's id, and what config.json says before the engine reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..common.errors import ProfileError
from ..common.settings import Settings
from ..models.course_model import make
from ..models.profiles import Profile, profile, profiles


def choose_model(model: str | Path | Profile) -> str | Path | Profile:
    """A profile where `model` is one or names one, else `model` itself. Raises `ProfileError` for what cannot name a model."""
    if not isinstance(model, str | Path | Profile):
        raise ProfileError(f"{model!r} is no model.", "Give a profile's name, a folder or a hub's id.")
    if isinstance(model, str) and (model == "auto" or model in profiles()):
        return profile(model)
    return model


def model_source(model: str | Path | Profile, config: Settings) -> tuple[str, dict[str, Any]]:
    """(folder or hub id, the flags that a profile brings). Makes the folder of a course model; raises `ProfileError` for no model."""
    if isinstance(model, Profile):
        return _profile_source(model, config)
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").exists():
            raise ProfileError(
                f"{path} has no config.json: it is no model folder.", "Give the folder that holds config.json and the weights."
            )
        return str(path.absolute()), {}
    if isinstance(model, Path) or str(model).startswith((".", "/", "~")):
        raise ProfileError(f"There is no folder {path}.", "Check the path; labkit.download puts a course model in its place.")
    if str(model).count("/") != 1:
        raise ProfileError(
            f"{model!r} is no profile, no folder and no hub id.", f"Profiles: auto, {', '.join(profiles())}; an id looks like org/name."
        )
    return str(model), {}


def _profile_source(model: Profile, config: Settings) -> tuple[str, dict[str, Any]]:
    folder = model.folder(config)
    if model.local:
        make(model, folder)
    if not (folder / "config.json").exists():
        raise ProfileError(f"{model.name} is not at {folder}.", f'labkit.download("{model.name}") fetches it (notebook 02).')
    brought = {"max_model_len": model.max_model_len, "reasoning_parser": model.reasoning_parser}
    return str(folder), brought | ({"load_format": "dummy"} if model.weights == "dummy" else {})


def weight_bytes(folder: str) -> int:
    """Bytes of the safetensors files in `folder`."""
    return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))


def quantisation(config: Path) -> str:
    """The quantization_config of a checkpoint's config.json in a few words, "" without one."""
    try:
        content = json.loads(config.read_text()).get("quantization_config") or {}
    except (OSError, ValueError):
        return ""
    return ", ".join(f"{name} {content[name]}" for name in ("quant_method", "bits", "activation_scheme") if name in content)
