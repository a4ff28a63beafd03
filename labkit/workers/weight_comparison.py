"""Which weights a merge changed, by how much, and how far each is from the exact sum: the first question of `proof_worker`.

Runs in the vLLM environment, on the GPU if there is one; not imported by labkit.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from labkit.workers import transformers_side
from labkit.workers.proof_job import ModuleKind
from labkit.workers.side import Refused, tell

MANTISSA = {"bfloat16": 8, "float16": 11, "float32": 24}
"""Significant bits of each type, the hidden one included."""


class WeightComparison:
    """`compare` reads both folders, `hold_against` the exact sum from the model with the adapter injected."""

    def __init__(self, base: Path, merged: Path) -> None:
        self.base, self.merged = _tensors(base), _tensors(merged)
        self.kinds: dict[str, ModuleKind] = {}
        self.changed: set[str] = set()
        self.dtype = ""
        self.astray: list[str] = sorted(set(self.base) ^ set(self.merged))
        """Tensors that only one folder has; after `hold_against` also those changed without an adapter module."""

    def compare(self) -> None:
        """Tensor by tensor, on the GPU if there is one. Raises `Refused` for other shapes, and when nothing was changed at all."""
        device = transformers_side.device()
        shared = sorted(set(self.base) & set(self.merged))
        for number, name in enumerate(shared, start=1):
            before, after = self.base[name].read(device), self.merged[name].read(device)
            if before.shape != after.shape or before.dtype != after.dtype:
                raise Refused(
                    f"{name} is {_layout(before)} in {self.base[name].file} and {_layout(after)} in {self.merged[name].file}: "
                    "not the same model.",
                    "Compare a merged folder with the base and the adapter that it was merged from.",
                )
            self._note(name, before, after)
            tell("progress", done=0, note=f"comparing weights, {number} of {len(shared)} tensors")
        if not self.changed:
            raise Refused(
                f"The merge changed nothing: all {len(shared)} tensors of the merged folder are those of the base.",
                "Look at the adapter: lora_alpha 0, lora_B all zero, targets that match nothing, or a delta below the base's rounding; "
                "labkit.lora.check(base, adapter) names them.",
            )

    def _note(self, name: str, before: Any, after: Any) -> None:
        import torch

        row = self.kinds.get(_kind(name), ModuleKind(_kind(name)))
        row = replace(row, tensors=row.tensors + 1, elements=row.elements + before.numel())
        different = int(torch.count_nonzero(before != after))
        if different:
            self.changed.add(name)
            self.dtype = _dtype(before)
            largest = float((after.float() - before.float()).abs().max())
            row = replace(
                row,
                changed=row.changed + 1,
                elements_changed=row.elements_changed + different,
                largest=max(row.largest, largest),
            )
        self.kinds[row.kind] = row

    def hold_against(self, model: Any) -> None:
        """How many units in the last place each merged weight lies from base + delta summed in fp32. Half a unit is one rounding."""
        import torch
        from peft.tuners.lora import LoraLayer
        from peft.utils import ModulesToSaveWrapper

        touched = {name for name in self.changed if name.endswith(".bias")} if model.peft_config["default"].bias != "none" else set()
        for path, module in model.base_model.model.named_modules():
            if isinstance(module, ModulesToSaveWrapper):  # trained whole
                touched |= {name for name in self.changed if name.startswith(f"{path}.")}
            if not isinstance(module, LoraLayer):
                continue
            name = f"{path}.weight"
            touched.add(name)
            # DoRA rescales what was added, and of an embedding PEFT rounds the delta before it is added
            plain = not module.use_dora.get("default") and not isinstance(module.get_base_layer(), torch.nn.Embedding)
            if plain and name in self.merged:
                row = self.kinds[_kind(name)]
                self.kinds[row.kind] = replace(row, ulps=max(row.ulps or 0.0, self._ulps(name, module)))
        if touched & self.changed:  # else the names of module and tensor differ in this architecture, and nothing can be said
            self.astray += sorted(self.changed - touched)

    def _ulps(self, name: str, module: Any) -> float:
        import torch

        with torch.inference_mode():
            exact = module.get_base_layer().weight.float() + module.get_delta_weight("default").float()
            merged = self.merged[name].read(str(exact.device))
            distance = (merged.float() - exact).abs()
            return float(torch.ldexp(distance, MANTISSA[_dtype(merged)] - torch.frexp(exact).exponent).max())

    def rows(self) -> tuple[ModuleKind, ...]:
        """One row for each kind of module, those that changed first."""
        return tuple(sorted(self.kinds.values(), key=lambda row: (row.elements_changed == 0, row.kind)))


class _Tensor:
    """One tensor of a safetensors file, read when asked for."""

    def __init__(self, file: Path, name: str) -> None:
        self.file, self.name = file, name

    def read(self, device: str) -> Any:
        from safetensors import safe_open

        with safe_open(self.file, framework="pt", device=device) as stream:
            return stream.get_tensor(self.name)


def _tensors(folder: Path) -> dict[str, _Tensor]:
    from safetensors import safe_open

    tensors: dict[str, _Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stream:
            tensors |= {name: _Tensor(file, name) for name in stream.keys()}  # noqa: SIM118 - no mapping
    return tensors


def _kind(name: str) -> str:
    """ "model.layers.3.self_attn.q_proj.weight" -> "q_proj"."""
    parts = name.split(".")
    return parts[-2] if len(parts) > 1 else name


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _layout(tensor: Any) -> str:
    return f"{_dtype(tensor)} {list(tensor.shape)}"
