"""A folder that is to hold a model of safetensors, and what it holds instead, with the next step.

Covers: pickles, GGUF, Mistral's own format, adapters, folders one or two levels too high. Does not cover: damaged models (`headers`).
"""

from __future__ import annotations

from pathlib import Path

CONSOLIDATED = "consolidated*.safetensors"
MOST_SHOWN = 4


def no_config(folder: Path) -> tuple[str, str]:
    """(cause, fix) for a folder without config.json."""
    cause = f"{folder} is no model folder: it has no config.json"
    if (folder / "adapter_config.json").is_file():
        return (f"{cause}; it is an adapter.", "Name the base first, then the adapter.")
    below = sorted(path.parent.relative_to(folder).as_posix() for depth in ("*", "*/*") for path in folder.glob(f"{depth}/config.json"))
    if below:
        shown = ", ".join(below[:MOST_SHOWN]) + (f" and {len(below) - MOST_SHOWN} more" if len(below) > MOST_SHOWN else "")
        return (f"{cause}; there is one in {shown}.", f"Name the folder that is meant: {folder / below[-1]}.")
    return (f"{cause}.", "Check the folder's name.")


def no_safetensors(folder: Path) -> tuple[str, str]:
    """(cause, fix) for a model folder without safetensors that are its model's."""
    if consolidated := sorted(path.name for path in folder.glob(CONSOLIDATED)):
        return (
            f"{folder} holds {consolidated[0]}, the format of Mistral's own tools: its tensors have other names than transformers'.",
            "Download the model's other files too (model-*-of-*.safetensors), or a repository that has them.",
        )
    if pickles := sorted(path.name for pattern in ("pytorch_model*.bin", "*.pth", "*.pt") for path in folder.glob(pattern)):
        return (
            f"{folder} holds its weights as Python pickles ({pickles[0]}): reading one can run any program that its author put in.",
            "Download the model's safetensors. If it has none and you trust it, save it with transformers: save_pretrained.",
        )
    if ggufs := sorted(path.name for path in folder.glob("*.gguf")):
        return (f"{folder} holds {ggufs[0]}: GGUF is a quantised format of llama.cpp.", "Download the model's safetensors.")
    return (f"{folder} holds no safetensors file.", "Only safetensors can be read without running what is in the file.")
