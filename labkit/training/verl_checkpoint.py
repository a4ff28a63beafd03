"""What lies in a checkpoint folder of VERL, told from names, JSON and lists of tensors; nothing of it is run.

VERL writes one file for each rank, in the layout of FSDP or of Megatron. Covers: both layouts and those from before, what is missing,
what converts it. Does not cover: converting (`verl`). Used by `verl`, and so by notebook 06. Standard library only.
"""

from __future__ import annotations

import json
import pickletools
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common import tables
from ..common.amounts import amount_text
from ..common.errors import SettingError

SHARD = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")
FSDP_CONFIG, LORA_META, MANIFEST = "fsdp_config.json", "lora_train_meta.json", "ckpt_contents.json"
ADAPTER, ADAPTER_CONFIG = "lora_adapter", "adapter_config.json"
FULL, LORA, ADAPTER_ONLY = "full", "LoRA with its base", "LoRA without its base"
BACKENDS = {"fsdp": "FSDP", "megatron": "Megatron"}
NEW, OLD = "verl.model_merger", "scripts.legacy_model_merger"


@dataclass(frozen=True)
class Checkpoint:
    """What lies in a checkpoint folder, as far as can be told without running it.

    `backend` is "fsdp" or "megatron", `world_size` the number of ranks that wrote it (0 where the layout does not say), `version` that
    of FSDP ("" where it is not written down). `contents` is `FULL`, `LORA` or `ADAPTER_ONLY`; `rank` and `alpha` are the adapter's, None
    where no file says. `module` is what converts it, `configured` whether config and tokenizer lie beside the shards, `missing` what
    must be there and is not. `bytes` counts the weights. `others` are the world sizes of shards that belong to another training.
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
    others: tuple[int, ...] = ()

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
            *(
                [("of another training · 另一次训练的", ", ".join(f"shards of {ranks} ranks" for ranks in self.others))]
                if self.others
                else []
            ),
        ]

    def __str__(self) -> str:
        return "\n".join(f"{name.partition(' · ')[0]}: {value}" for name, value in self.rows())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return tables.as_html(self.rows())


def detect(folder: str | Path) -> Checkpoint:
    """Say what the checkpoint in `folder` is (`.../global_step_N/actor`, or `.../global_step_N`). Runs and writes nothing.

    The names of tensors are read from the shards' lists by taking the pickle apart, not by loading it. Raises `SettingError` for a
    folder that is no checkpoint of VERL.
    """
    chosen = Path(folder).expanduser().absolute()
    for actor in (chosen, chosen / "actor"):
        if any(SHARD.fullmatch(path.name) for path in actor.glob("model_world_size_*.pt")):
            return _fsdp(actor)
        if any((actor / part).is_dir() for part in ("dist_ckpt", "model")):
            return _megatron(actor)
    below = [path for path in chosen.glob("global_step_*/actor") if path.is_dir()]
    newest = max(below, key=lambda path: (len(path.parent.name), path.parent.name), default=None)
    raise SettingError(
        f"{chosen} is no checkpoint of VERL: no model_world_size_*_rank_*.pt (FSDP), no model/ or dist_ckpt/ (Megatron).",
        f"Give the actor's folder of a step: {newest or '<default_local_dir>/global_step_<N>/actor'}.",
    )


def model_folder(folder: Path) -> Path:
    """Where Megatron's model lies: in model/, before that layout in the folder itself."""
    return folder / "model" if (folder / "model").is_dir() else folder


def _fsdp(folder: Path) -> Checkpoint:
    """VERL opens model_world_size_W_rank_R.pt for every R below the W of fsdp_config.json; without that file W is told by the names."""
    shards = {(int(match[1]), int(match[2])): path for path in folder.iterdir() if (match := SHARD.fullmatch(path.name))}
    config, lora_meta = read_fields(folder / FSDP_CONFIG), read_fields(folder / LORA_META)
    said, worlds = config.get("world_size"), sorted({world for world, _ in shards})
    world = said if isinstance(said, int) and said > 0 else _likeliest(shards, worlds)
    ranks = {rank: shards[world, rank] for rank in range(world) if (world, rank) in shards}
    missing = [f"model_world_size_{world}_rank_{rank}.pt" for rank in range(world) if rank not in ranks]
    names: set[str] = set()
    for path in sorted(ranks.values()):
        try:
            names |= _tensor_names(path)
        except (OSError, ValueError, zipfile.BadZipFile):
            missing.append(f"{path.name} (cut off or damaged)")
    adapter = read_fields(folder / ADAPTER / ADAPTER_CONFIG)  # older versions of VERL wrote PEFT's own folder beside the shards
    configured = (folder / "huggingface" / "config.json").is_file()
    lora = {name for name in names if "lora_" in name}
    return Checkpoint(
        folder=folder,
        backend="fsdp",
        world_size=world,
        version=str(config.get("FSDP_version", "")),
        contents=(LORA if names - lora else ADAPTER_ONLY) if lora else FULL,
        rank=(lora_meta.get("r") or adapter.get("r")) if lora else None,
        alpha=(lora_meta.get("lora_alpha") or adapter.get("lora_alpha")) if lora else None,
        module=NEW if config and configured else OLD,
        configured=configured,
        missing=tuple(missing),
        bytes=sum(path.stat().st_size for path in ranks.values()),
        others=tuple(other for other in worlds if other != world),
    )


def _likeliest(shards: Mapping[tuple[int, int], Path], worlds: list[int]) -> int:
    """The largest world size of which all shards are there; of none, the largest."""
    whole = [world for world in worlds if all((world, rank) in shards for rank in range(world))]
    return max(whole or worlds)


def _megatron(folder: Path) -> Checkpoint:
    """Both layouts: model/dist_ckpt with model/huggingface, and the one before it without model/."""
    model = model_folder(folder)
    old = list((folder / "model").glob("mp_rank_*"))
    shards = [path for path in (model / "dist_ckpt").rglob("*") if path.is_file()] if not old else [path / "model.pt" for path in old]
    adapter = bool(read_fields(folder / MANIFEST).get("peft"))
    return Checkpoint(
        folder=folder,
        backend="megatron",
        world_size=len(old),
        version="",
        contents=LORA if adapter else FULL,
        rank=None,
        alpha=None,
        module=OLD if old else NEW,
        configured=(model / "huggingface" / "config.json").is_file(),
        missing=tuple([] if shards else [f"{model.relative_to(folder.parent)}/dist_ckpt"]),
        bytes=sum(path.stat().st_size for path in shards if path.exists()),
    )


def _tensor_names(path: Path) -> set[str]:
    """The names in a file of torch.save: the strings of its pickle that end like a tensor's name, found without running it."""
    with zipfile.ZipFile(path) as archive:
        member = next((name for name in archive.namelist() if name.endswith("/data.pkl")), "")
        if not member:
            raise ValueError("no data.pkl")
        pickle = archive.read(member)
    strings = {str(argument) for opcode, argument, _ in pickletools.genops(pickle) if "UNICODE" in opcode.name}
    return {string for string in strings if string.endswith((".weight", ".bias"))}


def read_fields(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} for a file that is not there or holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
