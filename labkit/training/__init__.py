"""A LoRA adapter by PEFT or LLaMA-Factory, checkpoints of VERL, and the training of the course model.

The names that notebooks use, loaded when first touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common import lazy

EXPORTS = {
    "finetune": "finetune",
    "llamafactory": "llamafactory",
    "verl": "verl",
}
"""Name -> module that holds it, or is it."""

if TYPE_CHECKING:
    from . import finetune as finetune
    from . import llamafactory as llamafactory
    from . import verl as verl

__getattr__, __dir__ = lazy.names(__name__, EXPORTS)
