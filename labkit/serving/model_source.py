"""What `serve` is given as a model: a profile, a folder or a hub's id, and what config.json says before the engine reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..common.errors import ProfileError
from ..common.settings import Settings
from ..models.course_model import make
from ..models.profiles import Profile, profile, profiles

GGUF = ".gguf"
GGUF_FIX = (
    "The engines of this course take a folder with config.json and safetensors files: labkit.download fetches one for a profile, and a "
    "hub's page mostly links the original. (vLLM can read some GGUF files, with the tokenizer and config of the base; labkit does not.)"
)
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


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
        _require_weights(path)
        return str(path.absolute()), {}
    if path.is_file():
        raise _no_folder(path)
    if isinstance(model, Path) or str(model).startswith((".", "/", "~")):
        raise ProfileError(f"There is no folder {path}.", "Check the path; labkit.download puts a course model in its place.")
    if str(model).lower().endswith(GGUF):
        raise ProfileError(f"There is no file {path}, and a GGUF file could not be served here.", GGUF_FIX)
    if str(model).count("/") != 1:
        raise ProfileError(
            f"{model!r} is no profile, no folder and no hub id.", f"Profiles: auto, {', '.join(profiles())}; an id looks like org/name."
        )
    return str(model), {}


def _require_weights(folder: Path) -> None:
    """Raise `ProfileError` for a folder that an engine cannot load, naming what it holds instead."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    gguf = next((path for path in files if _is_gguf(path)), None)
    if gguf and not any(path.suffix in WEIGHTS for path in files):
        raise ProfileError(f"{folder} holds its weights as a GGUF file ({gguf.name}), the form of llama.cpp and Ollama.", GGUF_FIX)
    if (folder / "config.json").exists():
        return
    if (folder / "adapter_config.json").exists():
        fix = f'Serve its base with it: enable_lora=True, lora_modules=["name={folder}"]; or merge it: labkit.lora.merge.'
        raise ProfileError(f"{folder} is a LoRA adapter, not a model.", fix)
    inside = [path.parent.name for path in sorted(folder.glob("*/config.json"))]
    where = f" One is in: {', '.join(inside[:3])}." if inside else ""
    raise ProfileError(
        f"{folder} has no config.json: it is no model folder.", f"Give the folder that holds config.json and the weights.{where}"
    )


def _no_folder(file: Path) -> ProfileError:
    if _is_gguf(file):
        return ProfileError(f"{file} is a GGUF file, the form of llama.cpp and Ollama.", GGUF_FIX)
    if file.name == "config.json" or file.suffix in WEIGHTS:
        return ProfileError(f"{file} is one file of a model.", f"Give the folder that it lies in: {file.parent}")
    return ProfileError(
        f"{file} is a file, and a model is a folder.", "Give the folder that holds config.json and the weights (unpack an archive)."
    )


def _is_gguf(file: Path) -> bool:
    """By its first bytes; a name alone says so only where the file is too short to have any (a partial download)."""
    try:
        with file.open("rb") as stream:
            start = stream.read(4)
    except OSError:
        return False
    return start == b"GGUF" or (len(start) < 4 and file.suffix.lower() == GGUF)


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
