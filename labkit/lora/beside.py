"""Trained weights that lie beside the adapter's own file: value heads, projectors, embeddings, whatever a trainer puts apart.

PEFT reads one file. What LLaVA, TRL, LongLoRA or unsloth keep in another one belongs to the training as much, and neither a merge nor an
engine that is given the adapter's folder takes it. Files of tensors are known by their endings; those that hold no weights (optimizer,
scheduler, random states, arguments) are left out by name.

Covers: what is there, by name. Does not cover: what is in it (some are pickles, which nothing here opens).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ..models.adapter import Adapter
from ..models.adapter_folders import PICKLE, WEIGHTS
from .findings import LOOK, Finding

ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz", ".npy", ".h5", ".msgpack", ".gguf", ".pkl")
NO_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|lr_scheduler|scaler|sampler|random_states|rng_state|custom_checkpoint)[\w.-]*")
KNOWN = {
    "value_head": "the value or reward head of TRL and LLaMA-Factory",
    "v_head": "the value or reward head of TRL",
    "non_lora_trainables": "LLaVA's projector and what else was trained beside LoRA",
    "mm_projector": "LLaVA's projector",
    "trainable_params": "LongLoRA's embeddings and norms",
    "new_embeddings": "the embeddings of added tokens",
    "pytorch_model": "a whole model",
    "model": "a whole model",
}


def files(adapter: Adapter) -> list[Path]:
    """The files of trained weights in the adapter's folder that are not the adapter's own."""
    return [
        path
        for path in sorted(adapter.folder.iterdir())
        if path.is_file()
        and path.suffix in ENDINGS
        and not path.name.startswith(".")
        and path.name not in (WEIGHTS, PICKLE)
        and not NO_WEIGHTS.fullmatch(path.stem)
    ]


def findings(adapter: Adapter) -> Iterator[Finding]:
    """What a merge, and an engine, would leave out."""
    if others := files(adapter):
        yield Finding(
            "trained beside",
            f"trained weights lie beside the adapter: {', '.join(map(_described, others))}",
            adapter.folder.name,
            "PEFT, a merge and the engines read the adapter's own file only: this part of the training would be missing.",
            "Put them into the base with the program that trained them. Or, if the result needs none of them: "
            'labkit.lora.merge(..., accept=["trained beside"]), or ./lab merge --accept "trained beside".',
        )
    if not adapter.pickled and (adapter.folder / PICKLE).is_file():
        what = f"{PICKLE} lies beside {WEIGHTS}, which is the one that is read"
        fix = f"See that {WEIGHTS} is the newer one; remove the other."
        yield Finding("two files", what, adapter.folder.name, "They may be of two trainings.", fix, LOOK)


def _described(path: Path) -> str:
    known = next((text for stem, text in KNOWN.items() if re.fullmatch(rf"{stem}(-\d+-of-\d+)?", path.stem)), "")
    return f"{path.name} ({known})" if known else path.name
