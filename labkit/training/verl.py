"""Turns a checkpoint of VERL, which is shards of a training, into a Hugging Face folder that can be served.

    labkit.training.verl.detect(folder)             what it is, from names, JSON and lists of tensors; nothing of it is run
    labkit.training.verl.convert(folder, out)       VERL's own command, and for LoRA the merge that it leaves out
    labkit.training.verl.practise(base, out)        checkpoints to try it on, written by two ranks on this machine

VERL writes one file for each rank, in the layout of FSDP or of Megatron. `python -m verl.model_merger` puts them together;
checkpoints from before it (no fsdp_config.json, or no huggingface/ beside the shards) need the older
scripts/legacy_model_merger.py, which VERL's package has too. Of a LoRA training both leave the adapter beside an unchanged base
that looks like the trained model, and where lora_alpha is not in the checkpoint they write 0, with which merging changes nothing.
So lora_alpha is asked for before anything runs, and the adapter is merged by `lora.merge`, which refuses to have changed nothing.

Converting runs what is in the .pt files (they are pickles, and VERL loads them as such): convert only what you trust. It holds the
whole model in memory, about twice; the merge of the adapter after it does not.

Covers: FSDP 1 and 2, full, LoRA and adapter-only; Megatron where the environment has megatron-core and a GPU. Does not cover: what
lies in the folder (`verl_checkpoint`), adapters trained with Megatron (named, with VERL's script for them), optimizer states,
training. Checked against VERL 0.9.1 with FSDP;
Megatron's command line is VERL's own, NOT TRIED here. Used by notebook 06.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from ..common import disk
from ..common.errors import LabError, SettingError
from ..common.files import draft, require_empty, save
from ..lora import merging
from ..lora.companions import RECORD
from ..models.folders import require_model
from ..runtimes import environments
from ..workers import commands, launch
from .verl_checkpoint import (
    ADAPTER,
    ADAPTER_CONFIG,
    ADAPTER_ONLY,
    FSDP_CONFIG,
    FULL,
    LORA,
    NEW,
    OLD,
    Checkpoint,
    detect,
    model_folder,
    read_fields,
)

__all__ = ["ADAPTER_ONLY", "FULL", "LORA", "NEW", "OLD", "Checkpoint", "Converted", "convert", "detect", "practise"]

ENGINE = "verl"
PRACTICE = launch.SCRIPTS / "practice_worker.py"
LAYOUT = "layout"
MEGATRON_ADAPTER = "scripts/megatron_merge_lora.py"
NO_WEIGHTS = "Incomplete Hugging Face model output"
"""What the merger says last of a checkpoint without a base, after it has written the adapter."""
SECONDS = 120
"""A question to the environment's Python; a cold disk is slow."""


@dataclass(frozen=True)
class Converted:
    """A Hugging Face folder made of a checkpoint. For LoRA, `adapter` is in it (PEFT's format, lora_alpha set) and `merged` is true.

    `base` is the folder that the caller named; where none was, the adapter was merged into the base out of the checkpoint.
    """

    folder: Path
    checkpoint: Checkpoint
    base: Path | None
    adapter: Path | None
    merged: bool
    seconds: float

    def __str__(self) -> str:
        how = f"adapter merged, and kept in {self.adapter.name}/" if self.adapter else "no adapter in it"
        ranks = " and of ".join(map(str, self.checkpoint.others))
        left = f", the shards of {ranks} ranks left out ({FSDP_CONFIG} says {self.checkpoint.world_size})" if ranks else ""
        return f"{self.folder}: a model from {self.checkpoint.folder} ({self.checkpoint.contents}), {how}{left}, {self.seconds:.0f} s"

    __repr__ = __str__


def convert(folder: str | Path, out: str | Path, *, base: str | Path | None = None, lora_alpha: float | None = None) -> Converted:
    """Write the checkpoint in `folder` as a Hugging Face model to `out`; prints VERL's command, shows progress.

    `base` is the folder of the model that the training began with; needed only where the checkpoint has no base or no config of its
    own. `lora_alpha` is what the training used (actor_rollout_ref.model.lora_alpha); needed where the checkpoint does not say, and
    wins where it does. The weights become bf16, as VERL's merger has it. An adapter is merged and kept in `out`/lora_adapter.

    Runs the pickles in the checkpoint: give it only one that you trust. Leaves the checkpoint as it is; `out` must not be there or be
    empty, and appears whole or not at all. Raises, before anything runs: `SettingError` (no checkpoint, ranks missing, lora_alpha
    or base needed, `out` in use, no megatron-core in the environment), `NoSpace`; later `LabError` with VERL's own words.
    """
    checkpoint, target = detect(folder), require_empty(out)
    source = require_model(base) if base is not None else None
    alpha = lora_alpha if lora_alpha is not None else checkpoint.alpha
    _require_convertible(checkpoint, source, alpha, alpha_given=lora_alpha is not None)
    disk.require({target: checkpoint.bytes * (2 if checkpoint.lora else 1)})
    python = environments.python(ENGINE)
    _require_tools(checkpoint, source, python)
    return _convert(checkpoint, target, source, alpha, python)


def practise(base: str | Path, out: str | Path) -> Path:
    """Let two ranks train the small model in `base` for a step, on the CPU, and write checkpoints as VERL does; returns `out`.

    In it: full, lora (with its base), lora_only (as save_lora_only has it), old (from before fsdp_config.json), and beside each in
    NAME.reference what converting it must give. Not VERL's training: PyTorch's FSDP writes them, in VERL's layout. `out` must not be
    there or be empty, and appears whole or not at all. Raises `SettingError`, and `LabError` with the script's own words.
    """
    source, target = require_model(base), require_empty(out)
    python = environments.python(ENGINE)
    with draft(target, "practising") as folder:
        result = commands.run([python, PRACTICE, source, folder], folder.parent, title="Two ranks train a step and write checkpoints")
        if result.code:
            raise result.error("The checkpoints to practise with were not written", ENGINE)
    return target


def _require_convertible(checkpoint: Checkpoint, base: Path | None, alpha: float | None, *, alpha_given: bool) -> None:
    folder, weights = checkpoint.folder, checkpoint.folder / "model" / "huggingface"
    if checkpoint.backend == "megatron" and checkpoint.contents == FULL and list(weights.glob("*.safetensors")):
        raise SettingError(
            f"{weights} is a whole model already: VERL saved it through its bridge.", "Serve that folder; nothing is to convert."
        )
    if checkpoint.others and checkpoint.module == OLD:
        worlds = " and ".join(map(str, sorted((checkpoint.world_size, *checkpoint.others))))
        raise SettingError(
            f"{folder} holds shards of several trainings, of {worlds} ranks, and no {FSDP_CONFIG} that says which is meant.",
            "Move the shards of the others out of the folder.",
        )
    if checkpoint.missing:
        raise SettingError(
            f"{folder} is not whole; missing: {', '.join(checkpoint.missing)}.{_others(checkpoint)}",
            "Each node writes the files of its own ranks: copy those of all nodes into one folder.",
        )
    if checkpoint.backend == "megatron" and checkpoint.lora:
        raise SettingError(
            f"{folder} is an adapter trained with Megatron; the merger cannot read it.",
            f"VERL merges it with its own training settings: python {MEGATRON_ADAPTER} <the arguments of the training> "
            f"actor_rollout_ref.model.lora.adapter_path={folder / 'model' / 'dist_ckpt'}",
        )
    if checkpoint.backend == "megatron" and checkpoint.module == OLD:
        raise SettingError(
            f"{folder} has Megatron's mp_rank folders, a layout that VERL 0.9.1 can no longer read: its older script fails there.",
            "In a clone of VERL of the checkpoint's time, in its environment: python scripts/legacy_model_merger.py merge "
            f"--backend megatron --local_dir {folder} --target_dir <out>   (scripts/model_merger.py in still older ones)",
        )
    if not checkpoint.configured and base is None:
        raise SettingError(
            f"{folder} has no huggingface/config.json: an old checkpoint, which does not say what model it is.",
            "convert(..., base=<the folder of the model that the training began with>).",
        )
    if checkpoint.contents == ADAPTER_ONLY and base is None:
        raise SettingError(
            f"{folder} holds an adapter only (VERL's save_lora_only): there is no base to merge it into.",
            "convert(..., base=<the folder of the model that the training began with>).",
        )
    if checkpoint.lora and not alpha:
        raise SettingError(
            f"{folder} does not say what lora_alpha is; VERL's merger would write 0, and the merged model would be the untrained one.",
            "convert(..., lora_alpha=<actor_rollout_ref.model.lora_alpha of the training>).",
        )
    if alpha_given and not checkpoint.lora:
        raise SettingError(f"{folder} holds no adapter, so lora_alpha means nothing.", "Leave it out.")


def _others(checkpoint: Checkpoint) -> str:
    """What else lies there, where files are missing."""
    if not checkpoint.others:
        return ""
    ranks = " and ".join(map(str, checkpoint.others))
    return f" There are shards of {ranks} ranks, of another training; {FSDP_CONFIG} says {checkpoint.world_size}."


def _require_tools(checkpoint: Checkpoint, base: Path | None, python: Path) -> None:
    """What the environment must have for this checkpoint, beyond VERL itself."""
    if checkpoint.module == OLD and not _has(python, OLD):
        arguments = _arguments(checkpoint, checkpoint.folder, Path("OUT"), base)
        command = commands.pasteable(["python", "scripts/legacy_model_merger.py", *arguments])
        raise SettingError(
            f"{checkpoint.folder} needs VERL's older script, and the environment of {python} has no {OLD}.",
            f"Let labkit make the environment (unset LABKIT_RUNTIME_VERL), or run it from a clone of VERL: {command}",
        )
    if checkpoint.backend == "megatron" and not _has(python, "megatron.core"):
        raise SettingError(
            f"{checkpoint.folder} was written by Megatron, and the environment of {python} has no megatron-core.",
            "Name an environment in which VERL trains with Megatron, on a machine with a GPU: export LABKIT_RUNTIME_VERL=<its python>.",
        )


def _has(python: Path, module: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    try:
        environment = {**os.environ, "PYTHONSAFEPATH": "1"}
        return subprocess.run([python, "-c", code], cwd="/", env=environment, capture_output=True, timeout=SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _convert(checkpoint: Checkpoint, out: Path, base: Path | None, alpha: float | None, python: Path) -> Converted:
    started = time.monotonic()
    with draft(out, ENGINE) as folder:
        parts = folder / "base"  # what the merge of an adapter calls it
        _merge_shards(checkpoint, parts, base, python)
        model = _merge_adapter(checkpoint, parts, base, alpha) if checkpoint.lora else parts
        for path in model.iterdir():
            path.rename(folder / path.name)
        for scratch in (parts, model, folder / LAYOUT):
            shutil.rmtree(scratch, ignore_errors=True)
        require_model(folder)
    seconds = round(time.monotonic() - started, 1)
    return Converted(out, checkpoint, base, out / ADAPTER if checkpoint.lora else None, checkpoint.lora, seconds)


def _merge_shards(checkpoint: Checkpoint, target: Path, base: Path | None, python: Path) -> None:
    """Run VERL's command. Of an adapter without a base it is known to fail at its end, when the adapter is written."""
    shards = _current_layout(checkpoint, target.with_name(LAYOUT)) if checkpoint.backend == "megatron" else checkpoint.folder
    argv: list[str | Path] = [python, "-m", checkpoint.module, *_arguments(checkpoint, shards, target, base)]
    print(commands.pasteable(argv), flush=True)
    title = f"VERL puts {checkpoint.world_size or 'the'} shards together"
    if checkpoint.contents == ADAPTER_ONLY and checkpoint.module == NEW:
        print("It ends in an error, because the checkpoint has no base: the adapter is written by then, and taken.", flush=True)
    result = commands.run(argv, target.parent, title=title)
    if result.code and not (checkpoint.contents == ADAPTER_ONLY and NO_WEIGHTS in result.output):
        raise result.error(f"VERL did not convert {checkpoint.folder}", ENGINE)
    if checkpoint.lora and not (target / ADAPTER).is_dir():
        raise LabError(f"VERL wrote no {ADAPTER} from {checkpoint.folder}.", f"The whole log: {result.log}.")


def _arguments(checkpoint: Checkpoint, shards: Path, target: Path, base: Path | None) -> list[str]:
    config = read_fields(model_folder(checkpoint.folder) / "huggingface" / "config.json")
    tied = checkpoint.backend == "megatron" and config.get("tie_word_embeddings")
    return [
        *("merge", "--backend", checkpoint.backend, "--local_dir", str(shards), "--target_dir", str(target)),
        *(["--tie-word-embedding"] if tied else []),
        *(["--hf_model_path", str(base)] if checkpoint.module == OLD and not checkpoint.configured else []),
    ]


def _current_layout(checkpoint: Checkpoint, shown: Path) -> Path:
    """A Megatron checkpoint in today's layout. One from before is shown so in `shown` by links, as VERL's migration script has it."""
    if model_folder(checkpoint.folder) != checkpoint.folder:
        return checkpoint.folder
    (shown / "model").mkdir(parents=True)
    for part in ("dist_ckpt", "huggingface"):
        (shown / "model" / part).symlink_to(checkpoint.folder / part, target_is_directory=True)
    return shown


def _merge_adapter(checkpoint: Checkpoint, parts: Path, base: Path | None, alpha: float | None) -> Path:
    """Merge the adapter that lies in `parts` into the base beside it, or into the caller's; it stays in the folder above.

    First it gets what VERL's merger did not know: lora_alpha, and the task.
    """
    adapter = (parts / ADAPTER).rename(parts.with_name(ADAPTER))
    config = read_fields(adapter / ADAPTER_CONFIG)
    save(adapter / ADAPTER_CONFIG, {**config, "lora_alpha": alpha, "task_type": config.get("task_type") or "CAUSAL_LM"})
    merged, into_own_base = parts.with_name("merged"), base is None or checkpoint.contents != ADAPTER_ONLY
    merging.merge(parts if into_own_base else str(base), adapter, merged)
    record = read_fields(merged / RECORD)  # it names folders of the draft
    record["base"]["folder"], record["adapter"]["folder"] = str(checkpoint.folder if into_own_base else base), ADAPTER
    save(merged / RECORD, record)
    return merged
