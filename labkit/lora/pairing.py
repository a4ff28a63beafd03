"""Which tensor of the base each tensor of an adapter changes, and how: the plan of a merge, from headers alone.

Covers: lora_A and lora_B pairs of linear layers (and GPT-2's transposed ones), embedding pairs, DoRA magnitudes, modules and
biases that were trained whole; what does not fit, as findings. Does not cover: the arithmetic (`workers.merge_arithmetic`).
Names and shapes are those that PEFT 0.21.2 writes and loads. Used by notebook 06 through `check` and `merge`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ..models.adapter import PREFIX, Adapter
from ..models.headers import Tensor, Weights
from .findings import BLOCKS, LOOK, Finding

TRANSPOSED_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp")
"""Values of `model_type` whose layers are transformers' Conv1D, which keeps a weight as [in, out] (transformers 5.19)."""
FLOATS = ("F32", "F16", "BF16")
WHOLE_LIMIT = 96 * 2**20
"""Most elements of a tensor that has to be in memory whole: DoRA's norm along the other dimension (about 1 GiB in fp32)."""
PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(?:\.(?P<kind>weight|bias))?"
)
TIED_MODULES = ("lm_head", "embed_tokens", "wte", "embed_in", "embed_out", "word_embeddings", "tok_embeddings")


@dataclass(frozen=True)
class Change:
    """What becomes of one base tensor: start (+ scale x B @ A), rescaled row by row where there is a magnitude.

    `start` is the base's own tensor, or one that the adapter brings whole. `transposed`: the delta is (B @ A) transposed.
    `rounds`: the delta is rounded to the base's type before it is added, as PEFT does with embeddings.
    """

    module: str
    target: Tensor
    start: Tensor
    a: Tensor | None = None
    b: Tensor | None = None
    magnitude: Tensor | None = None
    scale: float = 0.0
    transposed: bool = False
    rounds: bool = False

    @property
    def whole(self) -> bool:
        """Whether its rows cannot be done one after another."""
        return self.magnitude is not None and self.transposed


@dataclass
class Pairing:
    """The changes that an adapter makes to a base, and what is wrong with them."""

    changes: list[Change] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def pair(base: Weights, adapter: Adapter) -> Pairing:
    """Hold every tensor of `adapter` against `base`; what does not fit becomes a finding, the rest a change."""
    return _Pairer(base, adapter).pair()


class _Pairer:
    def __init__(self, base: Weights, adapter: Adapter) -> None:
        self.base, self.adapter = base, adapter
        self.wrong: dict[tuple[str, str, str], list[str]] = {}
        self.pairing = Pairing()

    def pair(self) -> Pairing:
        if self.adapter.refused():  # what its tensors mean depends on the setting
            self.pairing.findings += self._refusals()
            return self.pairing
        parts, others = self._sorted()
        starts = self._starts(others)
        for module, tensors in parts.items():
            self._add(module, tensors, starts)
        self.pairing.changes += [Change(name.rpartition(".")[0], self.base.tensors[name], start) for name, start in starts.items()]
        self.pairing.findings += [*self._config_findings(), *self._misfits()]
        return self.pairing

    def _sorted(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
        """(module -> part -> tensor, other name -> tensor), names as in the base."""
        parts: dict[str, dict[str, Tensor]] = {}
        others: dict[str, Tensor] = {}
        for name, tensor in self.adapter.tensors.items():
            match = PART.fullmatch(name.removeprefix(PREFIX))
            if match is None:
                others[name.removeprefix(PREFIX).replace(".base_layer.", ".")] = tensor
            elif match["kind"] == "bias":
                self._note("lora_bias", "lora_B has a bias", "PEFT would add it to the layer's bias.", name)
            else:
                parts.setdefault(match["module"], {})[match["part"]] = tensor
        return parts, others

    def _starts(self, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Base tensor's name -> the tensor that the adapter brings in its place."""
        starts: dict[str, Tensor] = {}
        for name, tensor in others.items():
            own = self._find(name)
            if self._tied(name):
                self._note_tied(name)
            elif own is None:
                self._note("unknown tensors", "tensors belong to nothing in the base", "They would be left out without a word.", name)
            elif own.shape != tensor.shape:
                self._note_shape(name, own, tensor.shape)
            elif own.dtype not in FLOATS or tensor.dtype not in FLOATS:
                self._note_type(own if own.dtype not in FLOATS else tensor)
            else:
                starts[own.name] = tensor
        return starts

    def _add(self, module: str, tensors: Mapping[str, Tensor], starts: dict[str, Tensor]) -> None:
        embedding = "lora_embedding_A" in tensors or "lora_embedding_B" in tensors
        a, b = (tensors.get(f"lora_{'embedding_' if embedding else ''}{half}") for half in "AB")
        target = self._find(f"{module}.weight")
        if a is None or b is None:
            self._note("half a pair", "modules have only one of lora_A and lora_B", "Half an adapter adds nothing.", module)
        elif self._tied(f"{module}.weight"):
            self._note_tied(module)
        elif target is None:
            self._note("base mismatch", "modules of the adapter are not in the base", "It was trained on another model.", module)
        elif self._fits(module, target, a, b, embedding):
            magnitude = tensors.get("lora_magnitude_vector")
            start = starts.pop(target.name, target)
            change = Change(
                module=module,
                target=target,
                start=start,
                a=a,
                b=b,
                magnitude=magnitude,
                scale=self.adapter.scale_of(module),
                transposed=embedding or self._transposed(module, target, a, b),
                rounds=embedding or str(self.adapter.config.get("init_lora_weights")).lower() == "mica",
            )
            if self._magnitude_fits(change, embedding):
                self.pairing.changes.append(change)

    def _fits(self, module: str, target: Tensor, a: Tensor, b: Tensor, embedding: bool) -> bool:
        rank = self.adapter.rank_of(module)
        delta = (b.shape[0], a.shape[-1]) if len(a.shape) == len(b.shape) == 2 else ()
        shapes = {delta[::-1]} if embedding else {delta, delta[::-1]} if self._may_be_transposed(target) else {delta}
        if target.dtype not in FLOATS:
            self._note_type(target)
        elif not {a.dtype, b.dtype} <= set(FLOATS):
            self._note_type(a if a.dtype not in FLOATS else b)
        elif len(target.shape) != 2 or len(a.shape) != 2 or len(b.shape) != 2:
            self._note("layer kind", "modules are no linear layers or embeddings", "The merge does matrices only.", str(target))
        elif a.shape[0] != rank or b.shape[1] != rank:
            self._note_rank(module, a.shape[0], rank)
        elif target.shape not in shapes:
            self._note_shape(module, target, delta[::-1] if embedding else delta)
        elif not self.adapter.targets(module):
            what = "modules have tensors in the file, and the adapter's config does not mean them"
            self._note("not targeted", what, "PEFT leaves them out when it loads the adapter.", module)
        else:
            return True
        return False

    def _magnitude_fits(self, change: Change, embedding: bool) -> bool:
        """DoRA's magnitude has one number for each output; without it the config must not ask for DoRA."""
        assert change.b is not None
        if (change.magnitude is not None) != self.adapter.dora:
            what = "modules have a magnitude vector and use_dora is not set, or the other way round"
            self._note("dora", what, "The rescaling of DoRA would be left out.", change.module)
            return False
        if change.magnitude is None:
            return True
        outputs = change.target.shape[1] if embedding else change.b.shape[0]
        if change.magnitude.shape != (outputs,):
            self._note_shape(f"{change.module} (magnitude vector)", change.target, change.magnitude.shape)
            return False
        if change.whole and math.prod(change.target.shape) > WHOLE_LIMIT:
            what = "DoRA on tensors too large to be held in memory whole"
            self._note("dora size", what, "Its norm runs along the other dimension, so rows cannot go one by one.", change.module)
            return False
        return True

    def _may_be_transposed(self, target: Tensor) -> bool:
        known = self.base.config.get("model_type") in TRANSPOSED_MODELS
        return (known or "auto_map" in self.base.config) and not target.name.startswith("lm_head")

    def _transposed(self, module: str, target: Tensor, a: Tensor, b: Tensor) -> bool:
        """Whether the base keeps this weight as [in, out]; PEFT goes by the layer's class, headers show its shape."""
        if not self._may_be_transposed(target):
            return False
        if a.shape[1] != b.shape[0]:
            return target.shape == (a.shape[1], b.shape[0])
        return self.base.config.get("model_type") in TRANSPOSED_MODELS or bool(self.adapter.config.get("fan_in_fan_out"))

    def _find(self, name: str) -> Tensor | None:
        """The base's tensor; some checkpoints (GPT-2's) leave out the first part of the names that their model has."""
        return self.base.tensors.get(name) or self.base.tensors.get(name.partition(".")[2])

    def _tied(self, name: str) -> bool:
        return self.base.tied and name.split(".")[-2:][0] in TIED_MODULES

    def _note(self, kind: str, what: str, breaks: str, where: str) -> None:
        self.wrong.setdefault((kind, what, breaks), []).append(where)

    def _note_tied(self, name: str) -> None:
        what = "input embedding and output head are one tensor in this base, and the adapter changes one of them"
        self._note("tied embeddings", what, "PEFT would change both, and the merged model would not answer as the adapter does.", name)

    def _note_type(self, tensor: Tensor) -> None:
        breaks = "Only fp32, fp16 and bf16 can be merged; anything smaller is quantised, and a delta added to it is lost in rounding."
        self._note("tensor type", "tensors are of a type that cannot be merged", breaks, str(tensor))

    def _note_shape(self, where: str, target: Tensor, shape: Iterable[int]) -> None:
        theirs, ours = " x ".join(map(str, shape)), " x ".join(map(str, target.shape))
        kind = "vocabulary" if target.name.split(".")[-2] in TIED_MODULES else "base mismatch"
        what = "embeddings have another number of rows than the base's" if kind == "vocabulary" else "shapes differ from the base's"
        breaks = "The tokens that were added have no rows." if kind == "vocabulary" else "It was trained on another model."
        self._note(kind, what, breaks, f"{where}: {theirs} against {ours}")

    def _note_rank(self, module: str, stored: int, rank: int) -> None:
        breaks = "The scale alpha / rank would be wrong, and PEFT cannot load it."
        self._note("rank", "tensors have another rank than adapter_config.json says", breaks, f"{module}: {stored}, not {rank}")

    def _misfits(self) -> Iterator[Finding]:
        for (kind, what, breaks), places in self.wrong.items():
            where = places[0] + (f" and {len(places) - 1} more" if len(places) > 1 else "")
            yield Finding(kind, what, where, breaks, FIXES[kind])

    def _refusals(self) -> Iterator[Finding]:
        for name, why in self.adapter.refused().items():
            breaks = "A merge of B @ A would not be this adapter."
            yield Finding(name, f"{name} is set: {why}", self.adapter.config_place, breaks, FIXES["setting"])

    def _config_findings(self) -> Iterator[Finding]:
        adapter, where = self.adapter, self.adapter.config_place
        if adapter.pickled:
            return
        if not self.pairing.changes and not self.wrong:
            breaks = "There is nothing to merge or to serve."
            yield Finding("empty", "the adapter holds no tensors", adapter.weights.name, breaks, "Name the checkpoint that training wrote.")
        zero = [change.module for change in self.pairing.changes if change.a is not None and change.scale == 0]
        if zero or adapter.config.get("lora_alpha") == 0:
            what = "lora_alpha is 0, so that the adapter's scale is 0"
            yield Finding("lora_alpha", what, where, "Served or merged, it changes nothing, without an error.", FIXES["lora_alpha"])
        idle = adapter.idle_targets([name.removesuffix(".weight") for name in self.base.tensors if name.endswith(".weight")])
        idle = [name for name in idle if not self._prefixed(name)]
        if idle:
            severity = LOOK if self.pairing.changes else BLOCKS
            breaks = "What was meant to be trained was not."
            yield Finding(
                "target modules", f"target modules match nothing: {', '.join(idle)}", where, breaks, FIXES["target modules"], severity
            )

    def _prefixed(self, name: str) -> bool:
        """Whether a full name in target_modules is one of the modules that were paired: the base's names may lack its prefix."""
        return any(_matches(name, change.module) for change in self.pairing.changes)


def _matches(entry: str, module: str) -> bool:
    return module == entry or module.endswith(f".{entry}")


FIXES = {
    "setting": 'method="peft" if PEFT can merge it; else serve it as an adapter, or train a plain LoRA.',
    "lora_bias": 'method="peft", or train with lora_bias=False.',
    "unknown tensors": "Save the adapter with PEFT's save_pretrained, which writes the names that are read again.",
    "base mismatch": "Name the base that the adapter was trained on (base_model_name_or_path in adapter_config.json).",
    "half a pair": "Save the adapter again; this file is not whole.",
    "layer kind": 'method="peft".',
    "rank": "Put the rank of the tensors into adapter_config.json, with the lora_alpha of the training.",
    "not targeted": "Put the modules into target_modules of adapter_config.json, or remove their tensors.",
    "dora": "Set use_dora in adapter_config.json as it was in training.",
    "dora size": 'method="peft", which holds the whole model in memory.',
    "tied embeddings": 'Train without lm_head and embed_tokens; or method="peft" if changing both is what you want.',
    "tensor type": "Merge into the base in bf16, and quantise the result.",
    "vocabulary": "Resize the base's embeddings first (transformers: resize_token_embeddings), or train without added tokens.",
    "lora_alpha": "Put the lora_alpha of the training into adapter_config.json (VERL's merger writes 0 when it does not find it).",
    "target modules": "Compare target_modules with the base's module names.",
}
"""Kind of finding -> what to do."""
