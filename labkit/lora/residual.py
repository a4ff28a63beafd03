"""Adapters that belong to a base which training changed: PiSSA, OLoRA, CorDA, LoRA-GA, LoftQ and what trainers leave of them.

Such a training takes a part out of each weight, W - s B0 A0, and trains that part as the adapter. PEFT's own save says so in
init_lora_weights, and PEFT takes the part out again when it loads. Where a trainer wrote "true" there (LLaMA-Factory's pissa_backup),
or PEFT does not take it out again (LoRA-GA), W + s B A has the part twice: no error, and gibberish.

It shows in the numbers: an ordinary delta has nothing to do with W, one of these is W's own part, so that the cosine of the two is that
part's share of W. Where it was converted (PEFT's path_initial_model_for_weight_conversion) or the base is the changed one, it is none.

Covers: that, on a few modules; the settings and names that training leaves. Does not cover: DoRA's magnitudes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ..models.adapter import Adapter
from ..models.headers import Tensor
from ..models.tensor_numbers import EXPONENTS, matrix, rows
from .changes import Change
from .findings import LOOK, Finding

PROBED = 4
"""Modules that are looked at, spread over the adapter's."""
SHARE, NOISE = 0.05, 6.0
"""A part of W has a cosine of its share of W; what has nothing to do with W has about 1 / sqrt(elements), and stays below NOISE of that."""
LEFT_BY_TRAINING = re.compile(r"(?i)(pissa|olora|corda|loftq|lora_?ga)[-_]?(init|backup|residual)")
CONFIGS = ("corda_config", "loftq_config", "lora_ga_config")
FIX = (
    "Take the converted adapter (LLaMA-Factory's pissa_converted; PEFT's save_pretrained with path_initial_model_for_weight_conversion), "
    "or the base that the training itself saved."
)


def findings(adapter: Adapter, changes: Sequence[Change]) -> Iterator[Finding]:
    """Whether the adapter's delta is a part of the weights that it would be added to, or its settings let one fear so."""
    if isinstance(adapter.config.get("init_lora_weights"), str) and adapter.refused().get("init_lora_weights"):
        return  # said already: PEFT knows what to do with it
    shares = _shares(changes)
    high = [name for name, share in shares.items() if share >= 1]
    breaks = "Merged or served, the base has that part twice: the answers are noise, without an error."
    if high and 2 * len(high) > len(shares):
        what = (
            f"what the adapter adds is a part of the base's own weights (first {high[0]}): as PiSSA and OLoRA take it out in training, "
            "or because the base has this adapter in it already"
        )
        yield Finding("residual base", what, adapter.folder.name, breaks, FIX)
        return
    signs = [f"{name} is set" for name in CONFIGS if adapter.config.get(name)]
    if str(adapter.config.get("init_lora_weights")).lower() == "lora_ga":
        signs.append("init_lora_weights is lora_ga")
    if LEFT_BY_TRAINING.search(adapter.folder.name):
        signs.append(f"the folder is called {adapter.folder.name}")
    elif "convert" not in adapter.folder.name.lower():
        beside = sorted(path.name for path in adapter.folder.parent.glob("*_init") if LEFT_BY_TRAINING.search(path.name) and path.is_dir())
        signs += [f"{name} lies beside it" for name in beside]
    if signs:
        what = f"the adapter may belong to a base that its training changed: {'; '.join(signs)}"
        fix = f"If it was not converted: {FIX}"
        yield Finding("residual base", what, adapter.config_place, f"If so: {breaks[0].lower()}{breaks[1:]}", fix, LOOK)


def _shares(changes: Sequence[Change]) -> dict[str, float]:
    """Module -> cosine of its delta and its weight, in units of what would be suspicious, for a few modules."""
    plain = [change for change in changes if change.a is not None and not change.rounds and _readable(change)]
    step = max(1, len(plain) // PROBED)
    shares = {}
    for change in plain[::step][:PROBED]:
        assert change.a is not None and change.b is not None
        a, b = matrix(change.a), matrix(change.b)
        left, right = (a.T, b.T) if change.transposed else (b, a)
        shares[change.module] = _cosine(left, right, change.target) * math.copysign(1.0, change.scale) / _limit(change.target)
    return shares


def _limit(weight: Tensor) -> float:
    return max(SHARE, NOISE / math.sqrt(math.prod(weight.shape)))


def _cosine(left: Any, right: Any, weight: Tensor) -> float:
    """Of `left` @ `right`, which is never made, and the weight, of which a few rows are read at a time; 0 where it is not to be told."""
    import numpy as np

    product = square = 0.0
    first = 0
    with np.errstate(all="ignore"):
        for part in rows(weight):
            product += float(np.sum((left[first : first + len(part)].T @ part) * right))
            square += float(np.sum(part * part))
            first += len(part)
        size = math.sqrt(max(0.0, float(np.sum((left.T @ left) * (right @ right.T)))) * square)
    return product / size if size and math.isfinite(product) and math.isfinite(size) else 0.0


def _readable(change: Change) -> bool:
    tensors = (change.a, change.b, change.target)
    return len(change.target.shape) == 2 and all(tensor is not None and tensor.dtype in EXPONENTS for tensor in tensors)
