"""A LoRA adapter by PEFT or LLaMA-Factory, checkpoints of VERL, and the training of the course model.

The names that notebooks use are in `__init__.pyi`, loaded when first touched.
"""

from ..common import lazy

__getattr__, __dir__ = lazy.names(__name__, __file__)
