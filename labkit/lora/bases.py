"""What is wrong with a base's own folder before an adapter comes to it, or for what the adapter was trained.

Covers: an adapter that lies in the base's folder, names of wrappers in its tensors, an output head that it must have and has not.
Does not cover: quantisation (`quantised`), damaged files (`models.headers`), shapes (`pairing`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ..models.adapter import Adapter
from ..models.adapter_folders import CONFIG
from ..models.adapter_keys import LEADING, PREFIX, unwrapped
from ..models.headers import WRITERS, Weights
from .findings import LOOK, Finding

EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings")
CLASSIFIERS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")
"""Values of task_type whose models have a head of their own in place of the one that writes."""
BY_NAMES = ("base mismatch", "unknown tensors", "target modules", "missing tensors")
"""Findings that names of wrappers bring about by themselves."""


def findings(base: Weights, adapter: Adapter) -> Iterator[Finding]:
    """What is wrong with `base`, or with it for `adapter`."""
    where = base.folder.name
    if (base.folder / CONFIG).is_file() and base.folder != adapter.folder:
        what = f"the base's folder has an adapter in it ({CONFIG})"
        breaks = "transformers adds that one whenever it loads the base, engines do not: there are two models in one folder."
        yield Finding("adapter in base", what, where, breaks, "Move the adapter's files into a folder of their own.")
    if wrapped := wrappers(base):
        what = f"the base's tensors carry the names of wrappers: {wrapped}"
        breaks = "Neither transformers nor an engine finds its weights by such names."
        fix = "Save it from the model inside (accelerate: unwrap_model; torch.compile: model._orig_mod; PEFT: merge_and_unload)."
        yield Finding("base names", what, where, breaks, fix, computable=False)
    elif _head_lacks(base):
        what = "config.json says that embedding and output head are two tensors, and there is no head"
        breaks = "transformers makes a head of random numbers, with a warning; engines refuse the folder or answer noise."
        fix = "If the embedding is the head, put tie_word_embeddings: true into config.json; else download or save the model again."
        yield Finding("no head", what, where, breaks, fix)
    if _writes(base) and adapter.config.get("task_type") in CLASSIFIERS and not adapter.saved_heads:
        what = f"the adapter was trained for {adapter.config['task_type']}, and neither it nor this base has such a head"
        breaks = "What is merged is a model that writes; the head that was trained is somewhere else."
        fix = "Name the base with that head, or have the adapter saved with it (modules_to_save)."
        yield Finding("no such head", what, adapter.config_place, breaks, fix, LOOK)


def wrappers(base: Weights) -> str:
    """The names of wrappers that its tensors carry, as one text; "" where they carry none."""
    names = Counter(name for tensor in base.tensors for name in _wrappers(tensor))
    # some models have a part called module; it is a wrapper where all is in it
    return ", ".join(sorted(name for name, count in names.items() if name not in LEADING or 2 * count > len(base.tensors)))


def _wrappers(tensor: str) -> tuple[str, ...]:
    prefixed = f".{PREFIX}" in f".{tensor}"
    return (*unwrapped(tensor)[1], *((PREFIX.rstrip("."),) if prefixed else ()))


def _writes(base: Weights) -> bool:
    return any(str(name).endswith(WRITERS) for name in base.config.get("architectures") or ())


def _head_lacks(base: Weights) -> bool:
    """Whether a model that writes has its embedding alone, and nothing that could be a head: as many rows, or columns."""
    embedding = next((tensor for name, tensor in base.tensors.items() if name.split(".")[-2:][0] in EMBEDDINGS), None)
    if base.tied or embedding is None or not _writes(base) or len(embedding.shape) != 2:
        return False
    others = (tensor for tensor in base.tensors.values() if tensor is not embedding)
    return not any(embedding.shape[0] in tensor.shape for tensor in others)
