"""Whether a base is quantised, and how: from its config, from files that older tools put beside it, from names and types of its tensors.

Covers: GPTQ, AWQ, compressed-tensors, FP8, bitsandbytes, MXFP4, ModelOpt, and anything else that a quantization_config names.
Does not cover: GGUF (no safetensors, `models.headers` names it).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..models.headers import Weights, read_json
from .findings import Finding

CONFIGS = ("quantization_config", "compression_config")
FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq", "hf_quant_config.json": "modelopt"}
"""Files of older AutoGPTQ and AutoAWQ, and of NVIDIA's ModelOpt, which config.json need not repeat."""
PARTS = re.compile(
    r"\.(qweight|qzeros|g_idx|weight_packed|weight_scale|weight_scale_inv|weight_zero_point|SCB|absmax|quant_state\..+|weight\.quant_state\..+"
    r"|weight\.absmax|\w+_blocks|\w+_scales)$"
)
"""Ends of names that only quantised checkpoints have."""
SMALL = ("F8_E4M3", "F8_E5M2", "F4", "I32", "I8", "U8")


def method(base: Weights) -> str:
    """What quantised `base`, in a few words; "" where nothing says that it is."""
    for config in (base.config, base.text_config):
        for name in CONFIGS:
            if isinstance(settings := config.get(name), dict) and settings:
                return _described(settings, name)
    for file, kind in FILES.items():
        if (base.folder / file).is_file():
            return f"{kind}, by {file}{_bits(base.folder / file)}"
    ends = Counter(match[1] for name in base.tensors if (match := PARTS.search(name)))
    if ends:
        return f"its tensors are parts such as .{ends.most_common(1)[0][0]}"
    small = [tensor.dtype for tensor in base.tensors.values() if tensor.name.endswith(".weight") and tensor.dtype in SMALL]
    return f"weights of type {small[0]}" if small else ""


def findings(base: Weights) -> Iterator[Finding]:
    """That the base is quantised, if it is."""
    if how := method(base):
        yield Finding(
            "quantised base",
            f"the base is quantised ({how})",
            base.folder.name,
            "A delta added to quantised weights is lost in their rounding, and packed ones cannot be added to at all.",
            "Merge into the base in bf16, and quantise the result.",
            computable=False,
        )


def _described(settings: Mapping[str, Any], name: str) -> str:
    kind = settings.get("quant_method") or settings.get("quant_algo") or name
    bits = settings.get("bits") or settings.get("w_bit")
    return f"{kind}, {bits} bits" if bits else str(kind)


def _bits(file: Path) -> str:
    settings = read_json(file)
    bits = settings.get("bits") or settings.get("w_bit")
    return f", {bits} bits" if bits else ""
