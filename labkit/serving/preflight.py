"""What can be told of a start before it: flags that the GPU has nothing for, a template that is none, what its log will warn of.

Covers: compute capability against flags (`engines.demands`), the chat template, the course model's rope settings. Does not cover: memory,
whether the folder is a model (`model_source`), what an engine finds out by itself. Used by `serve` through `launch`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..common.amounts import GIB
from ..common.errors import LabError, SettingError
from ..engines.demands import DEMANDS
from ..engines.engine import Engine
from ..engines.flags import flag_text, split_words
from ..lora.tokenizers import Tokenizer
from ..machine import host
from ..machine.gpu import Device
from ..models.profiles import LEAST_BFLOAT16

CPU_SERVER_BYTES = 3 * GIB
"""vLLM with the course model took 2.9 GiB (two cores, 2026-11); SGLang was not measured."""
TEMPLATE = "--chat-template"
OWN_TEMPLATES = ("tekken.json", "params.json")
"""Mistral's own tokenizer brings its template in code."""
BRINGS_TEMPLATE = ("blip-2", "chameleon", "clip", "colpali", "deepseek_vl_v2", "minicpmv", "paligemma", "siglip", "siglip2")
"""Model types that vLLM has templates of its own for (0.26.0); SGLang goes by the folder's name."""


def require_capability(engine: Engine, argv: Sequence[str], devices: Sequence[Device]) -> None:
    """Raise `SettingError` for a flag of `argv` that one of `devices` is too old for. A capability that is not known is let through."""
    for device in devices:
        for demand in DEMANDS:
            value = flag_text(argv, demand.flag)
            if demand.engine != engine.name or value not in demand.values or any(flag_text(argv, flag) for flag in demand.unless):
                continue
            if device.capability and device.capability < demand.least:
                name = demand.flag.removeprefix("--").replace("-", "_")
                raise SettingError(
                    f'{name}="{value}": {device.name} has compute capability {device.capability_text}, and {demand.why}.', demand.fix
                )


def half_precision(argv: Sequence[str], devices: Sequence[Device]) -> dict[str, object]:
    """The flag for a course model, which is stored in bfloat16, on a card that has none; {} where the caller said a dtype."""
    without = any(device.capability and device.capability < LEAST_BFLOAT16 for device in devices)
    return {"dtype": "half"} if without and flag_text(argv, "--dtype") is None else {}


def require_template(engine: Engine, argv: Sequence[str]) -> None:
    """Raise `SettingError` for a chat_template that is no file, or a JSON file where a Jinja template is asked for.

    vLLM takes JSON for a template's text and then answers nonsense; text with braces is a template itself.
    """
    value = flag_text(argv, TEMPLATE)
    if value is None or any(mark in value for mark in "{}\n"):
        return
    path = Path(value).expanduser()
    if not path.is_file():
        if engine.name == "sglang" and "/" not in value and not path.suffix:
            return  # the name of one that it knows
        raise SettingError(f"chat_template names {value}, which is no file.", "Give the path of a Jinja template: chat_template.jinja.")
    content = _json(path)
    if isinstance(content, dict) and not (engine.name == "sglang" and "sep_style" in content):
        inside = isinstance(content.get("chat_template"), str)
        raise SettingError(
            f"chat_template names {value}, which holds JSON, not a Jinja template.",
            'Its entry "chat_template" is the template: write that text into a file of its own, x.jinja, and give that.'
            if inside
            else "Give the path of a Jinja template: chat_template.jinja.",
        )
    if engine.name == "sglang" and path.suffix not in (".jinja", ".json"):
        raise SettingError(f"chat_template names {value}: SGLang takes files that end in .jinja.", f"Copy it: cp {value} {value}.jinja")


def notes(engine: Engine, source: str, argv: Sequence[str], device: str) -> list[str]:
    """What whoever starts this should know beforehand and nothing forbids: one line each."""
    folder, tight = Path(source), _memory_note() if device == "cpu" else []
    if not folder.is_dir():
        return tight
    return [*tight, *_template_note(engine, folder, argv), *_rope_note(folder)]


def _memory_note() -> list[str]:
    """A rented machine in its mode without a GPU has 2 GB, and what takes more is killed without a word in its log."""
    memory, free, limit = host.free_memory()
    if free >= CPU_SERVER_BYTES:
        return []
    of = f"of {memory / GIB:.1f} GiB" + (" (the container's limit)" if limit else "")
    return [
        f"note: {free / GIB:.1f} GiB of memory are free {of}. vLLM on the CPU takes 2.9 GiB with the smallest model, and what takes "
        "more than there is gets killed. Close other servers and notebooks, or start the instance with its GPU."
    ]


def _template_note(engine: Engine, folder: Path, argv: Sequence[str]) -> list[str]:
    given = TEMPLATE in split_words(argv)
    config = _json(folder / "config.json") or {}
    if given or config.get("model_type") in BRINGS_TEMPLATE or any((folder / name).is_file() for name in OWN_TEMPLATES):
        return []
    try:
        if Tokenizer(folder).template or (folder / "additional_chat_templates").is_dir():
            return []
    except LabError:
        return []  # a damaged file: the engine says which
    return [
        f"note: {folder} has no chat template. {engine.title} starts and completes text (/v1/completions), and refuses every chat. "
        'Fix: chat_template="<file>.jinja" with the template of the model it was made from, or copy that file into the folder as '
        "chat_template.jinja. A base model that never learned to chat has none."
    ]


def _rope_note(folder: Path) -> list[str]:
    """DeepSeek-R1-0528-Qwen3-8B has a key that transformers does not know: it warns, and the context is what config.json says."""
    config = _json(folder / "config.json") or {}
    rope = config.get("rope_scaling") or config.get("rope_parameters")
    if not isinstance(rope, dict) or "attn_factor" not in rope:
        return []
    return [
        "note: the log will warn of an unrecognized key in `rope_scaling`, attn_factor. It is no fault: the model starts, and its context "
        f"of {config.get('max_position_embeddings', 'config.json')} tokens holds."
    ]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
