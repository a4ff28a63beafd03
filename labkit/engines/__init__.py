"""What is known of each engine, as data: one module for each, and what they share. Nothing here starts anything: `serving` does.

Used by notebooks 03, 04 and 05 through `serving` and `webui`.
"""

from __future__ import annotations

from . import open_webui, sglang, vllm
from .engine import Engine

ENGINES: dict[str, Engine] = {engine.name: engine for engine in (vllm.ENGINE, sglang.ENGINE, open_webui.ENGINE)}


def model_engines() -> list[str]:
    """The engines that serve a model; Open-WebUI has none of its own."""
    return [name for name, engine in ENGINES.items() if engine.probe]
