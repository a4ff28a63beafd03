"""Which tensor of the base each tensor of an adapter changes, and how: the plan of a merge, from headers alone.

Covers: lora_A and lora_B pairs of linear layers (and GPT-2's transposed ones), embedding pairs, DoRA magnitudes, modules and
biases that were trained whole; what does not fit, as findings. Does not cover: the arithmetic (`workers.merge_arithmetic`).
Names and shapes are those that PEFT 0.21.2 writes and loads. Used by notebook 06 through `check` and `merge`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from ..models.adapter import PEFT_MERGES, PROMPTS, Adapter
from ..models.adapter_keys import PREFIX, Key, take_apart
from ..models.headers import Tensor, Weights
from ..models.tensor_numbers import same
from .advice import FIXES, PEFT_CAN, SETTING_FIXES
from .changes import Change, Pairing
from .findings import LOOK, WRAPPED, Finding
from .naming import NUMBERED, Names

TRANSPOSED_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp")
"""Values of `model_type` whose layers are transformers' Conv1D, which keeps a weight as [in, out] (transformers 5.19)."""
FLOATS = ("F32", "F16", "BF16")
ADAPTER_FLOATS = (*FLOATS, "F64", "F8_E4M3", "F8_E5M2")
"""Types of a base that can be merged into, and those that PEFT reads an adapter from, into fp32."""
WHOLE_LIMIT = 96 * 2**20
"""Most elements of a tensor that has to be in memory whole: DoRA's norm along the other dimension (about 1 GiB in fp32)."""
TIED_WITH = ("model.embed_tokens.weight", "transformer.wte.weight", "lm_head.weight")
"""Where the one tensor of embedding and head is stored, if not under the name that is asked for."""
TIED_MODULES = ("lm_head", "embed_tokens", "wte", "embed_in", "embed_out", "word_embeddings", "tok_embeddings", "shared")


def pair(base: Weights, adapter: Adapter) -> Pairing:
    """Hold every tensor of `adapter` against `base`; what does not fit becomes a finding, the rest a change."""
    return _Pairer(base, adapter).pair()


class _Pairer:
    def __init__(self, base: Weights, adapter: Adapter) -> None:
        self.base, self.adapter = base, adapter
        self.names = Names(base.tensors)
        self.wrong: dict[tuple[str, str, str], list[str]] = {}
        self.pairing = Pairing()
        self.keys = {name: take_apart(name) for name in adapter.tensors}

    def pair(self) -> Pairing:
        if self.adapter.refused():  # what its tensors mean depends on the setting
            self.pairing.findings += self._refusals()
            return self.pairing
        if any(0 in tensor.shape for tensor in self.adapter.tensors.values()):
            return self.pairing  # `numbers` says so; shapes that are not there are no other model's
        parts, others = self._sorted()
        starts = self._starts({name: tensor for name, tensor in others.items() if not self._untouched(name, tensor, parts)})
        for module, tensors in parts.items():
            self._add(module, tensors, starts)
        self.pairing.changes += [Change(name.rpartition(".")[0], self.base.tensors[name], start) for name, start in starts.items()]
        self.pairing.findings += [*self._misfits(), *self._said_aloud()]
        return self.pairing

    def _sorted(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
        """(module -> part -> tensor, other name -> tensor), names as in the model that was trained."""
        parts: dict[str, dict[str, Tensor]] = {}
        others: dict[str, Tensor] = {}
        copies: dict[str, Tensor] = {}
        for name, tensor in self.adapter.tensors.items():
            key = self.keys[name]
            if key.part and key.bias:
                self._note("lora_bias", "lora_B has a bias", "PEFT would add it to the layer's bias.", name)
            elif key.part:
                self._put(parts.setdefault(key.module, {}), key, tensor)
            elif key.copy:
                if key.copy == "modules_to_save":
                    copies[key.module] = tensor
            else:
                others[key.module] = tensor
        for name, tensor in copies.items():
            if not same(others.setdefault(name, tensor), tensor):
                self._note(
                    "two versions", "modules are in the file twice, with other numbers", "Which was trained is not to be told.", name
                )
        return parts, others

    def _put(self, parts: dict[str, Tensor], key: Key, tensor: Tensor) -> None:
        if key.part in parts:
            self._note("two versions", "modules have several adapters in one file", "Which is meant is not to be told.", tensor.name)
        parts[key.part] = tensor

    def _untouched(self, name: str, tensor: Tensor, parts: Mapping[str, object]) -> bool:
        """Whether it is the base's own embedding or head, which PEFT saves too where the vocabulary was resized."""
        if not self._tied(name):
            return False
        own = next((found for other in (name, *TIED_WITH) if (found := self.names.find(other)) is not None), None)
        return name.removesuffix(".weight") in parts or (own is not None and same(own, tensor))

    def _starts(self, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Base tensor's name -> the tensor that the adapter brings in its place."""
        starts: dict[str, Tensor] = {}
        tied = {name: tensor for name, tensor in others.items() if self._tied(name)}
        ties = self._moves_both(tied)
        for name, tensor in others.items():
            own = self.names.find(name)
            if name in tied and not ties:
                self._note_tied(name)
            elif own is None and name in tied:
                continue  # the head that is not stored: the embedding brings its numbers
            elif own is None:
                self._note_unknown(name)
            elif own.shape != tensor.shape:
                self._note_shape(name, own, tensor.shape)
            elif own.dtype not in FLOATS:
                self._note_type(own)
            elif tensor.dtype not in ADAPTER_FLOATS:
                self._note_adapter_type(tensor)
            else:
                starts[own.name] = tensor
        return starts

    def _moves_both(self, tied: Mapping[str, Tensor]) -> bool:
        """Whether what the adapter brings for embedding and head is one tensor again, so that it can take the base's place.

        It is where both were saved with the same numbers, and where ensure_weight_tying let PEFT train them as one.
        """
        tensors = list(tied.values())
        if not any(self.names.find(name) for name in tied):
            return False
        alike = all(same(tensors[0], other) for other in tensors[1:])
        return alike and (len(tensors) > 1 or bool(self.adapter.config.get("ensure_weight_tying")))

    def _add(self, module: str, tensors: Mapping[str, Tensor], starts: dict[str, Tensor]) -> None:
        embedding = "lora_embedding_A" in tensors or "lora_embedding_B" in tensors
        a, b = (tensors.get(f"lora_{'embedding_' if embedding else ''}{half}") for half in "AB")
        target = self.names.find(f"{module}.weight")
        if a is None or b is None:
            self._note("half a pair", "modules have only one of lora_A and lora_B", "Half an adapter adds nothing.", module)
        elif self._tied(f"{module}.weight"):
            what = "input embedding and output head are one tensor in this base, and the adapter has a LoRA for one of them, or for both"
            self._note(
                "tied pair", what, "Added to the one tensor it changes both, with PEFT as well; beside the base it does not.", module
            )
        elif target is None:
            shape = (b.shape[0], a.shape[-1])
            what, breaks = self.names.why_not(f"{module}.weight", (shape, shape[::-1]))
            self._note("base mismatch", what, breaks, module)
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
        elif other := next((tensor for tensor in (a, b) if tensor.dtype not in ADAPTER_FLOATS), None):
            self._note_adapter_type(other)
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

    def _tied(self, name: str) -> bool:
        """Whether it is embedding or head of a base where these are one: by its name, or beside the layers with a row for each token."""
        if not self.base.tied or name.split(".")[-2:][0] in TIED_MODULES:
            return self.base.tied
        own = None if NUMBERED.search(name) else self.names.find(name)
        return own is not None and len(own.shape) == 2 and own.shape[0] == self.base.text_config.get("vocab_size")

    def _note(self, kind: str, what: str, breaks: str, where: str) -> None:
        self.wrong.setdefault((kind, what, breaks), []).append(where)

    def _note_tied(self, name: str) -> None:
        what = "input embedding and output head are one tensor in this base, and the adapter changes one of them, or each in its own way"
        self._note("tied embeddings", what, "Changed in the base, the one tensor would change both; the adapter does not.", name)

    def _note_unknown(self, name: str) -> None:
        module = name.rpartition(".")[0]
        last = module.rpartition(".")[2]
        if any(last == saved or f".{saved}." in f".{module}." for saved in self.adapter.saved_modules):
            task = str(self.adapter.config.get("task_type") or "its task is not said")
            what = f"the adapter trained {last} whole, which this base has not"
            breaks = f"It is a part of the model that was trained ({task}), not of this one; without it the result is another."
            return self._note("no such head", what, breaks, name)
        if self.names.renamed_alike(name):
            return self._note("base mismatch", *self.names.why_not(name, ()), name)
        self._note("unknown tensors", "tensors belong to nothing in the base", "They would be left out without a word.", name)

    def _note_type(self, tensor: Tensor) -> None:
        breaks = "Only fp32, fp16 and bf16 can be merged into; in anything smaller a delta is lost in rounding."
        self._note("tensor type", "tensors of the base are of a type that cannot be merged into", breaks, str(tensor))

    def _note_adapter_type(self, tensor: Tensor) -> None:
        what = "tensors of the adapter are of a type that is not read as numbers"
        self._note("adapter type", what, "PEFT has fp32, fp16 or bf16 there.", str(tensor))

    def _note_shape(self, where: str, target: Tensor, shape: Sequence[int]) -> None:
        theirs, ours = " x ".join(map(str, shape)), " x ".join(map(str, target.shape))
        kind = "vocabulary" if target.name.split(".")[-2] in TIED_MODULES else "base mismatch"
        what = "embeddings have another number of rows than the base's" if kind == "vocabulary" else "shapes differ from the base's"
        breaks = "It was trained on another model."
        if kind == "vocabulary":
            more = shape[0] > target.shape[0]
            breaks = "The tokens that were added have no rows." if more else "The model that was trained had fewer rows."
        self._note(kind, what, breaks, f"{where}: {theirs} against {ours}")

    def _note_rank(self, module: str, stored: int, rank: int) -> None:
        breaks = "The scale alpha / rank would be wrong, and PEFT cannot load it."
        what = "tensors have another rank than adapter_config.json says"
        if "r" not in self.adapter.config:
            what = "adapter_config.json has no r, and the tensors have another rank than PEFT's default"
        self._note("rank", what, breaks, f"{module}: {stored}, not {rank}")

    def _misfits(self) -> Iterator[Finding]:
        for (kind, what, breaks), places in self.wrong.items():
            where = places[0] + (f" and {len(places) - 1} more" if len(places) > 1 else "")
            peft = kind in PEFT_CAN and (kind != "lora_bias" or self._biased())
            yield Finding(kind, what, where, breaks, FIXES[kind], peft=peft, computable=False)

    def _refusals(self) -> Iterator[Finding]:
        for name, why in self.adapter.refused().items():
            breaks = "A merge of B @ A would not be this adapter."
            peft = name in PEFT_MERGES or (name == "peft_type" and self.adapter.peft_type not in PROMPTS)
            peft = peft and (name != "lora_bias" or self._biased()) and (name != "init_lora_weights" or self.adapter.reproduced)
            fix = SETTING_FIXES.get(name, SETTING_FIXES["other"])
            yield Finding(name, f"{name} is set: {why}", self.adapter.config_place, breaks, fix, peft=peft, computable=False)

    def _biased(self) -> bool:
        """Whether the base's layers have biases to which PEFT's merge can add those of lora_B; it refuses where they have none."""
        modules = {key.module for key in self.keys.values() if key.part}
        return all(self.names.find(f"{module}.bias") is not None for module in modules)

    def _said_aloud(self) -> Iterator[Finding]:
        """Names that were mapped: nothing is wrong with the result, but PEFT and the engines may not do the same."""
        keys = self.keys.values()
        wrappers = sorted({wrapper for key in keys for wrapper in key.wrappers})
        others = sorted({key.adapter for key in keys} - {"", "default"})
        if odd := [
            *([f"keys carry names of wrappers that training put around the model: {', '.join(wrappers)}"] if wrappers else []),
            *([f"keys carry the name of an adapter: {', '.join(others)}"] if others else []),
            *([f"keys do not begin with PEFT's {PREFIX}"] if any(key.bare for key in keys) else []),
        ]:
            breaks = "They are read here all the same; PEFT and the engines may leave such modules out, some without a word."
            yield Finding(WRAPPED, "; ".join(odd), self.adapter.weights.name, breaks, FIXES[WRAPPED], LOOK)
        if self.names.renamed:
            asked, found = next(iter(self.names.renamed.items()))
            what = f"{len(self.names.renamed)} modules are named as another version of transformers names them: {asked} is {found}"
            breaks = "They are mapped here, as transformers does when it reads a model."
            yield Finding("renamed", what, self.adapter.weights.name, breaks, "Nothing; an engine may want the other names.", LOOK)
