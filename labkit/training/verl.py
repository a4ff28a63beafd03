"""Turns a checkpoint of VERL, which is shards of a training, into a Hugging Face folder that can be served.

    labkit.verl.detect(folder)             what it is, from names, JSON and lists of tensors; nothing of it is run
    labkit.verl.convert(folder, out)       VERL's own command, and for LoRA the merge that it leaves out
    labkit.verl.practise(base, out)        checkpoints to try it on, written by two ranks on this machine

VERL writes one file for each rank, in the layout of FSDP or of Megatron. `python -m verl.model_merger` puts them together;
checkpoints from before it (no fsdp_config.json, or no huggingface/ beside the shards) need the older
scripts/legacy_model_merger.py, which VERL's package has too. Of a LoRA training both leave the adapter beside an unchanged base
that looks like the trained model, and where lora_alpha is not in the checkpoint they write 0, with which merging changes nothing.
So lora_alpha is asked for before anything runs, and the adapter is merged by `lora.merge`, which refuses to have changed nothing.

Converting runs what is in the .pt files (they are pickles, and VERL loads them as such): convert only what you trust. It holds the
whole model in memory, about twice; the merge of the adapter after it does not.

Covers: FSDP 1 and 2, full, LoRA and adapter-only; Megatron where the environment has megatron-core and a GPU. Does not cover:
adapters trained with Megatron (named, with VERL's script for them), optimizer states, training. Checked against VERL 0.9.1 with FSDP;
Megatron's command line is VERL's own, NOT TRIED here. Used by notebook 06.
"""

from __future__ import annotations

import json
import os
import pickletools
import re
import shutil
import subprocess
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common import disk, tables
from ..common.amounts import amount_text
from ..common.errors import LabError, SettingError
from ..common.files import draft, require_empty
from ..common.logs import Explanation
from ..lora import merging
from ..lora.merging import RECORD
from ..models.folders import require_model
from ..runtimes import environments
from ..workers import commands, launch

ENGINE = "verl"
PRACTICE = launch.SCRIPTS / "practice_worker.py"
SHARD = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")
FSDP_CONFIG, LORA_META, MANIFEST = "fsdp_config.json", "lora_train_meta.json", "ckpt_contents.json"
ADAPTER, ADAPTER_CONFIG = "lora_adapter", "adapter_config.json"
LAYOUT = "layout"
FULL, LORA, ADAPTER_ONLY = "full", "LoRA with its base", "LoRA without its base"
BACKENDS = {"fsdp": "FSDP", "megatron": "Megatron"}
NEW, OLD = "verl.model_merger", "scripts.legacy_model_merger"
MEGATRON_ADAPTER = "scripts/megatron_merge_lora.py"
NO_WEIGHTS = "Incomplete Hugging Face model output"
"""What the merger says last of a checkpoint without a base, after it has written the adapter."""
SECONDS = 120
"""A question to the environment's Python; a cold disk is slow."""

KNOWN = (
    Explanation(
        r"No module named '(megatron\S*)'",
        "its environment has no {0}, which Megatron's checkpoints need",
        "Name an environment in which VERL trains with Megatron: export LABKIT_RUNTIME_VERL=<its python>.",
    ),
    Explanation(
        r"AssertionError: Unsupported mesh_dim_names (\(.*\))",
        "the shards were cut for a device mesh {0}; it knows FSDP, alone or with DDP",
        "Save the checkpoint from a training without tensor parallelism, or with hf_model in its save_contents.",
    ),
    Explanation(
        r"UnpicklingError: (.*)|PytorchStreamReader failed (.*)",
        "a shard cannot be read: {0}{1}",
        "Copy it again from where the training wrote it.",
    ),
    Explanation(
        r"The checkpoint you are trying to load has model type `(\S+)`",
        "its transformers does not know models of type {0}",
        "Name an environment whose transformers does: export LABKIT_RUNTIME_VERL=<its python>.",
    ),
)


@dataclass(frozen=True)
class Checkpoint:
    """What lies in a checkpoint folder, as far as can be told without running it.

    `backend` is "fsdp" or "megatron", `world_size` the number of ranks that wrote it (0 where the layout does not say), `version` that
    of FSDP ("" where it is not written down). `contents` is `FULL`, `LORA` or `ADAPTER_ONLY`; `rank` and `alpha` are the adapter's, None
    where no file says. `module` is what converts it, `configured` whether config and tokenizer lie beside the shards, `missing` what
    must be there and is not. `bytes` counts the weights.
    """

    folder: Path
    backend: str
    world_size: int
    version: str
    contents: str
    rank: int | None
    alpha: float | None
    module: str
    configured: bool
    missing: tuple[str, ...]
    bytes: int

    @property
    def lora(self) -> bool:
        """Whether it holds an adapter."""
        return self.contents != FULL

    def rows(self) -> list[tuple[str, str]]:
        """The table, heading first."""
        ranks = f"({self.world_size} ranks)" if self.world_size else ""
        adapter = f"rank {self.rank or 'not written down'}, lora_alpha {self.alpha or 'not written down: convert(..., lora_alpha=)'}"
        return [
            ("checkpoint · 检查点", str(self.folder)),
            ("backend · 后端", " ".join([BACKENDS[self.backend], *filter(None, [self.version, ranks])])),
            ("contents · 内容", f"{self.contents}, {amount_text(self.bytes, 'B')}"),
            *([("adapter · 适配器", adapter)] if self.lora else []),
            ("converted by · 转换工具", f"python -m {self.module}"),
            ("missing · 缺少", ", ".join(self.missing) or "nothing"),
        ]

    def __str__(self) -> str:
        return "\n".join(f"{name.partition(' · ')[0]}: {value}" for name, value in self.rows())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return tables.as_html(self.rows())


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
        return f"{self.folder}: a model from {self.checkpoint.folder} ({self.checkpoint.contents}), {how}, {self.seconds:.0f} s"

    __repr__ = __str__


def detect(folder: str | Path) -> Checkpoint:
    """Say what the checkpoint in `folder` is (`.../global_step_N/actor`, or `.../global_step_N`). Runs and writes nothing.

    The names of tensors are read from the shards' lists by taking the pickle apart, not by loading it. Raises `SettingError` for a
    folder that is no checkpoint of VERL.
    """
    chosen = Path(folder).expanduser().absolute()
    for place in (chosen, chosen / "actor"):
        if any(SHARD.fullmatch(path.name) for path in place.glob("model_world_size_*.pt")):
            return _fsdp(place)
        if any((place / part).is_dir() for part in ("dist_ckpt", "model")):
            return _megatron(place)
    raise SettingError(
        f"{chosen} is no checkpoint of VERL: no model_world_size_*_rank_*.pt (FSDP), no model/ or dist_ckpt/ (Megatron).",
        "Give the actor's folder of a step: <default_local_dir>/global_step_<N>/actor.",
    )


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
    _require_convertible(checkpoint, source, alpha, asked=lora_alpha is not None)
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
        ran = commands.run([python, PRACTICE, source, folder], folder.parent, title="Two ranks train a step and write checkpoints")
        if ran.code:
            raise ran.error("The checkpoints to practise with were not written", KNOWN)
    return target


def _fsdp(folder: Path) -> Checkpoint:
    ranks = {int(match[2]): path for path in folder.iterdir() if (match := SHARD.fullmatch(path.name))}
    config, manifest = _json(folder / FSDP_CONFIG), _json(folder / LORA_META)
    world = int(config.get("world_size") or max(int(match[1]) for path in ranks.values() if (match := SHARD.fullmatch(path.name))))
    missing = [f"model_world_size_{world}_rank_{rank}.pt" for rank in range(world) if rank not in ranks]
    names: set[str] = set()
    for path in sorted(ranks.values()):
        try:
            names |= _tensor_names(path)
        except (OSError, ValueError, zipfile.BadZipFile):
            missing.append(f"{path.name} (cut off or damaged)")
    adapter = _json(folder / ADAPTER / ADAPTER_CONFIG)  # older versions of VERL wrote PEFT's own folder beside the shards
    configured = (folder / "huggingface" / "config.json").is_file()
    lora = {name for name in names if "lora_" in name}
    return Checkpoint(
        folder=folder,
        backend="fsdp",
        world_size=world,
        version=str(config.get("FSDP_version", "")),
        contents=(LORA if names - lora else ADAPTER_ONLY) if lora else FULL,
        rank=(manifest.get("r") or adapter.get("r")) if lora else None,
        alpha=(manifest.get("lora_alpha") or adapter.get("lora_alpha")) if lora else None,
        module=NEW if config and configured else OLD,
        configured=configured,
        missing=tuple(missing),
        bytes=sum(path.stat().st_size for path in ranks.values()),
    )


def _megatron(folder: Path) -> Checkpoint:
    """Both layouts: model/dist_ckpt with model/huggingface, and the one before it without model/."""
    inside = _inside(folder)
    old = list((folder / "model").glob("mp_rank_*"))
    shards = [path for path in (inside / "dist_ckpt").rglob("*") if path.is_file()] if not old else [path / "model.pt" for path in old]
    adapter = bool(_json(folder / MANIFEST).get("peft"))
    return Checkpoint(
        folder=folder,
        backend="megatron",
        world_size=len(old),
        version="",
        contents=LORA if adapter else FULL,
        rank=None,
        alpha=None,
        module=OLD if old else NEW,
        configured=(inside / "huggingface" / "config.json").is_file(),
        missing=tuple([] if shards else [f"{inside.relative_to(folder.parent)}/dist_ckpt"]),
        bytes=sum(path.stat().st_size for path in shards if path.exists()),
    )


def _tensor_names(path: Path) -> set[str]:
    """The names in a file of torch.save: the strings of its pickle that end like a tensor's name, found without running it."""
    with zipfile.ZipFile(path) as archive:
        inside = next((name for name in archive.namelist() if name.endswith("/data.pkl")), "")
        if not inside:
            raise ValueError("no data.pkl")
        pickle = archive.read(inside)
    words = {str(argument) for code, argument, _ in pickletools.genops(pickle) if "UNICODE" in code.name}
    return {word for word in words if word.endswith((".weight", ".bias"))}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _require_convertible(checkpoint: Checkpoint, base: Path | None, alpha: float | None, *, asked: bool) -> None:
    place, weights = checkpoint.folder, checkpoint.folder / "model" / "huggingface"
    if checkpoint.backend == "megatron" and checkpoint.contents == FULL and list(weights.glob("*.safetensors")):
        raise SettingError(
            f"{weights} is a whole model already: VERL saved it through its bridge.", "Serve that folder; nothing is to convert."
        )
    if checkpoint.missing:
        raise SettingError(
            f"{place} is not whole; missing: {', '.join(checkpoint.missing)}.",
            "Each node writes the files of its own ranks: copy those of all nodes into one folder.",
        )
    if checkpoint.backend == "megatron" and checkpoint.lora:
        raise SettingError(
            f"{place} is an adapter trained with Megatron; the merger cannot read it.",
            f"VERL merges it with its own training settings: python {MEGATRON_ADAPTER} <the arguments of the training> "
            f"actor_rollout_ref.model.lora.adapter_path={place / 'model' / 'dist_ckpt'}",
        )
    if checkpoint.backend == "megatron" and checkpoint.module == OLD:
        raise SettingError(
            f"{place} has Megatron's mp_rank folders, a layout that VERL 0.9.1 can no longer read: its older script fails there.",
            "In a clone of VERL of the checkpoint's time, in its environment: python scripts/legacy_model_merger.py merge "
            f"--backend megatron --local_dir {place} --target_dir <out>   (scripts/model_merger.py in still older ones)",
        )
    if not checkpoint.configured and base is None:
        raise SettingError(
            f"{place} has no huggingface/config.json: an old checkpoint, which does not say what model it is.",
            "convert(..., base=<the folder of the model that the training began with>).",
        )
    if checkpoint.contents == ADAPTER_ONLY and base is None:
        raise SettingError(
            f"{place} holds an adapter only (VERL's save_lora_only): there is no base to merge it into.",
            "convert(..., base=<the folder of the model that the training began with>).",
        )
    if checkpoint.lora and not alpha:
        raise SettingError(
            f"{place} does not say what lora_alpha is; VERL's merger would write 0, and the merged model would be the untrained one.",
            "convert(..., lora_alpha=<actor_rollout_ref.model.lora_alpha of the training>).",
        )
    if asked and not checkpoint.lora:
        raise SettingError(f"{place} holds no adapter, so lora_alpha means nothing.", "Leave it out.")


def _require_tools(checkpoint: Checkpoint, base: Path | None, python: Path) -> None:
    """What the environment must have for this checkpoint, beyond VERL itself."""
    if checkpoint.module == OLD and not _has(python, OLD):
        arguments = _arguments(checkpoint, checkpoint.folder, Path("OUT"), base)
        words = commands.pasteable(["python", "scripts/legacy_model_merger.py", *arguments])
        raise SettingError(
            f"{checkpoint.folder} needs VERL's older script, and the environment of {python} has no {OLD}.",
            f"Let labkit make the environment (unset LABKIT_RUNTIME_VERL), or run it from a clone of VERL: {words}",
        )
    if checkpoint.backend == "megatron" and not _has(python, "megatron.core"):
        raise SettingError(
            f"{checkpoint.folder} was written by Megatron, and the environment of {python} has no megatron-core.",
            "Name an environment in which VERL trains with Megatron, on a machine with a GPU: export LABKIT_RUNTIME_VERL=<its python>.",
        )


def _has(python: Path, module: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    try:
        done = subprocess.run(
            [python, "-c", code], cwd="/", env={**os.environ, "PYTHONSAFEPATH": "1"}, capture_output=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _convert(checkpoint: Checkpoint, out: Path, base: Path | None, alpha: float | None, python: Path) -> Converted:
    started = time.monotonic()
    with draft(out, ENGINE) as folder:
        parts = folder / "base"  # what the merge of an adapter calls it
        _merge_shards(checkpoint, parts, base, python)
        model = _merge_adapter(checkpoint, parts, base, alpha) if checkpoint.lora else parts
        for path in model.iterdir():
            path.rename(folder / path.name)
        for work in (parts, model, folder / LAYOUT):
            shutil.rmtree(work, ignore_errors=True)
        require_model(folder)
    seconds = round(time.monotonic() - started, 1)
    return Converted(out, checkpoint, base, out / ADAPTER if checkpoint.lora else None, checkpoint.lora, seconds)


def _merge_shards(checkpoint: Checkpoint, target: Path, base: Path | None, python: Path) -> None:
    """Run VERL's command. Of an adapter without a base it is known to fail at its end, when the adapter is written."""
    shards = _as_now(checkpoint, target.with_name(LAYOUT)) if checkpoint.backend == "megatron" else checkpoint.folder
    command: list[str | Path] = [python, "-m", checkpoint.module, *_arguments(checkpoint, shards, target, base)]
    print(commands.pasteable(command), flush=True)
    title = f"VERL puts {checkpoint.world_size or 'the'} shards together"
    if checkpoint.contents == ADAPTER_ONLY and checkpoint.module == NEW:
        print("It ends in an error, because the checkpoint has no base: the adapter is written by then, and taken.", flush=True)
    ran = commands.run(command, target.parent, title=title)
    if ran.code and not (checkpoint.contents == ADAPTER_ONLY and NO_WEIGHTS in ran.output):
        raise ran.error(f"VERL did not convert {checkpoint.folder}", KNOWN)
    if checkpoint.lora and not (target / ADAPTER).is_dir():
        raise LabError(f"VERL wrote no {ADAPTER} from {checkpoint.folder}.", f"The whole log: {ran.log}.")


def _arguments(checkpoint: Checkpoint, shards: Path, target: Path, base: Path | None) -> list[str]:
    tied = checkpoint.backend == "megatron" and _json(_inside(checkpoint.folder) / "huggingface" / "config.json").get("tie_word_embeddings")
    return [
        *("merge", "--backend", checkpoint.backend, "--local_dir", str(shards), "--target_dir", str(target)),
        *(["--tie-word-embedding"] if tied else []),
        *(["--hf_model_path", str(base)] if checkpoint.module == OLD and not checkpoint.configured else []),
    ]


def _inside(folder: Path) -> Path:
    """Where Megatron's model lies: in model/, before that layout in the folder itself."""
    return folder / "model" if (folder / "model").is_dir() else folder


def _as_now(checkpoint: Checkpoint, shown: Path) -> Path:
    """A Megatron checkpoint in today's layout. One from before is shown so in `shown` by links, as VERL's migration script has it."""
    if _inside(checkpoint.folder) != checkpoint.folder:
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
    path = adapter / ADAPTER_CONFIG
    config = _json(path)
    path.write_text(json.dumps({**config, "lora_alpha": alpha, "task_type": config.get("task_type") or "CAUSAL_LM"}, indent=2) + "\n")
    merged, own = parts.with_name("merged"), base is None or checkpoint.contents != ADAPTER_ONLY
    merging.merge(parts if own else str(base), adapter, merged)
    record = _json(merged / RECORD)
    record["base"]["folder"], record["adapter"]["folder"] = str(checkpoint.folder if own else base), ADAPTER  # not those of the draft
    (merged / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    return merged
