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
from ..models.adapter_folders import CONFIG, PICKLE, WEIGHTS
from ..models.headers import INDEX
from .findings import LOOK, Finding
from .tokenizers import json_if_there

ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".pkl")
ARRAYS = (".npz", ".npy")
TRAINED = re.compile(r"(?i)adapter|lora|weight|embed|head|proj|model|param")
"""Arrays of numpy are as often losses and metrics: those count whose names say that they are weights."""
OF_ITS_OWN = re.compile(
    r"(?i)\..*|checkpoint.*|(global_?)?step.*|epoch.*|runs|logs?|wandb|tensorboard|optimizer.*|pytorch_model_fsdp.*|__pycache__"
)
NO_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|lr_scheduler|scaler|sampler|random_states|rng_state|custom_checkpoint)[\w.-]*")
KNOWN = {
    "value_head": "the value or reward head of TRL and LLaMA-Factory",
    "v_head": "the value or reward head of TRL",
    "non_lora_trainables": "LLaVA's projector and what else was trained beside LoRA",
    "mm_projector": "LLaVA's projector",
    "trainable_params": "LongLoRA's embeddings and norms",
    "new_embeddings": "the embeddings of added tokens",
    "adapter_model": "another saving of the adapter",
    "pytorch_model": "a whole model",
    "model": "a whole model",
}


def files(adapter: Adapter) -> list[Path]:
    """The files of trained weights in the adapter's folder that are not the adapter's own."""
    return [path for folder in _folders(adapter.folder) for path in sorted(folder.iterdir()) if path.is_file() and _weights(path)]


def _folders(folder: Path, depth: int = 2) -> Iterator[Path]:
    """The folder and those in it that are of this training: not its checkpoints, nor an adapter or a model of their own."""
    yield folder
    for path in sorted(folder.iterdir()) if depth else ():
        if path.is_dir() and not path.is_symlink() and not OF_ITS_OWN.fullmatch(path.name) and not _of_its_own(path):
            yield from _folders(path, depth - 1)


def _of_its_own(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (CONFIG, INDEX)) or "model_type" in json_if_there(folder / "config.json")


def _weights(path: Path) -> bool:
    if path.name.startswith(".") or path.name in (WEIGHTS, PICKLE) or NO_WEIGHTS.fullmatch(path.stem):
        return False
    return path.suffix in ENDINGS or (path.suffix in ARRAYS and TRAINED.search(path.stem) is not None)


def findings(adapter: Adapter) -> Iterator[Finding]:
    """What a merge, and an engine, would leave out."""
    if others := files(adapter):
        yield Finding(
            "trained beside",
            f"trained weights lie beside the adapter: {', '.join(_described(adapter, path) for path in others)}",
            adapter.folder.name,
            "PEFT, a merge and the engines read the adapter's own file only: this part of the training would be missing.",
            "Put them into the base with the program that trained them. Or, if the result needs none of them: "
            'labkit.lora.merge(..., accept=["trained beside"]), or ./lab merge --accept "trained beside".',
        )
    if not adapter.pickled and (adapter.folder / PICKLE).is_file():
        what = f"{PICKLE} lies beside {WEIGHTS}, which is the one that is read"
        fix = f"See that {WEIGHTS} is the newer one; remove the other."
        yield Finding("two files", what, adapter.folder.name, "They may be of two trainings.", fix, LOOK)


def _described(adapter: Adapter, path: Path) -> str:
    known = next((text for stem, text in KNOWN.items() if re.fullmatch(rf"{stem}(-\d+-of-\d+)?", path.stem)), "")
    name = path.relative_to(adapter.folder).as_posix()
    return f"{name} ({known})" if known else name
