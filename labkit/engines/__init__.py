"""The engines: `serve` starts one, `attach` finds a running one. What differs between engines is data in their modules.

Used by notebooks 03, 04 and 05 and by `./lab up`.
"""

from __future__ import annotations

from . import open_webui, sglang, vllm
from .engine import Engine

ENGINES: dict[str, Engine] = {kind.name: kind for kind in (vllm.ENGINE, sglang.ENGINE, open_webui.ENGINE)}


def model_engines() -> list[str]:
    """The engines that serve a model; Open-WebUI has none of its own."""
    return [name for name, kind in ENGINES.items() if kind.probe]
