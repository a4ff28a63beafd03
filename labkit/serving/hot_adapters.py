"""LoRA adapters of a running server: which ones it has, one more, one less, without a restart.

    server = labkit.serve("vllm", base, hot_adapters=True, max_lora_rank=16)
    server.load_adapter("aiops", folder)      held against the base first, then loaded
    server.adapters()                         names, folders, and what clients write as model=
    server.unload_adapter("aiops")

Why look first: vLLM (0.32.0) answers "added successfully" for an adapter of another model's shape, and for layers that the base
does not have. Why off by default: whoever has the key could make the engine read any folder that it can reach.
A client chooses an adapter with model= alone; a header or another field of the body changes nothing in vLLM. SGLang (0.5.17) wants
base:name there, and answers a bare name from the base, without an error: `asked_as` finds the words.

vLLM's CPU build (0.32.0) answers for the base with whatever adapter lies in the last slot as soon as a request to an adapter is in
the same batch (its torch operators take index -1, which means none, for the last). So on CPU `serve` adds one slot to max_loras,
and `load` keeps it empty: a slot is used up by each load, also after an unload, until the server is started anew.

Covers: vLLM and SGLang; what differs between them is data (`engine.Adapters`). Does not cover: the flags for adapters at the
start beyond looking at the folders, merging (`lora.merge`), who may use which adapter (`tenants`). Used by notebook 06.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..chat.http import ask, error_message
from ..chat.served import Served, adapter_api, list_adapters
from ..common.errors import AdapterError, SettingError
from ..engines.engine import Adapters, Engine
from ..engines.flags import as_number, flag_number, spelt, split_words
from ..failures.verdicts import explain_message

if TYPE_CHECKING:
    from ..engines.endpoint import Endpoint


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def load(server: Endpoint, name: str, folder: str | Path, *, check: bool = True) -> Served:
    """Load the adapter in `folder` into `server` under `name`, which no other adapter may have. Returns it.

    `check` holds it against the base first (`lora.check`: shapes, target modules, rank; under 2 s), prints what is worth a look,
    and refuses what blocks; it needs the base's weights in a folder (not a hub id or load_format="dummy") that are not quantised,
    and else looks at the adapter alone. Weights that were trained anew need another folder or another name: vLLM's prefix cache
    goes by both, and would answer from the old ones.

    Raises `SettingError` for a name that cannot be, `NotRunning`, `VerificationError` for a damaged file, `LabError` for a folder
    that is no adapter, and `AdapterError`: does not fit, loaded already, the server was started without LoRA or without
    hot_adapters=True, or what the engine says.
    """
    calls = adapter_api(server.engine)
    _require_lora(server, calls)
    _require_name(server, name)
    found = list_adapters(server)
    if name in found.names:
        raise AdapterError(
            f"{server.engine.title} has an adapter {name!r} already, from {found.named(name).folder}.",
            f'server.unload_adapter("{name}") first, or choose another name.',
        )
    _require_slot(server, calls)
    chosen = Path(folder).expanduser().resolve()
    require_fitting(chosen, server.source, rank=flag_number(server.command, "--max-lora-rank") or calls.rank, check=check)
    _change(server, calls.load, {"lora_name": name, "lora_path": str(chosen)})
    return list_adapters(server).named(name)


def unload(server: Endpoint, name: str) -> None:
    """Take the adapter `name` from `server`: requests that run end as they began, new ones are refused.

    vLLM keeps its weights until another adapter needs the slot. SGLang (0.5.19) loads it again by itself if a client asks for it by name.
    Raises `NotRunning`, and `AdapterError` for a name that is not loaded or a server without hot_adapters=True.
    """
    calls = adapter_api(server.engine)
    _require_lora(server, calls)
    list_adapters(server).named(name)
    _change(server, calls.unload, {"lora_name": name})


def with_lora(kind: Engine, options: Mapping[str, object], extra: Iterable[str], *, hot: bool, device: str) -> dict[str, object]:
    """The flags for `serve` with LoRA switched on where `hot` asks for it.

    On CPU one slot is added, which stays empty (a --max-loras in `extra` is left as it is). Raises `SettingError` for an engine
    without adapters, and where it has them on a GPU only.
    """
    calls, words = kind.adapters, split_words(extra)
    names = ["enable_lora", calls.modules] if calls else ["enable_lora"]
    if not (hot or any(options.get(name) or spelt(name) in words for name in names)):
        return dict(options)
    if calls is None:
        raise SettingError(f"{kind.title} serves no adapters.", 'Use labkit.serve("vllm", ..., enable_lora=True).')
    if calls.gpu_only and device == "cpu":
        raise SettingError(
            f"{kind.title} needs a GPU for LoRA adapters, and none is here.",
            'labkit.serve("vllm", ..., enable_lora=True) serves them on CPU too; or merge first: labkit.lora.merge.',
        )
    if hot and options.get("enable_lora") is False:
        raise SettingError("hot_adapters=True and enable_lora=False contradict each other.", "Leave one of them out.")
    chosen = {"enable_lora": True, **options} if hot else dict(options)
    if device == "cpu" and calls.cpu_slots:
        chosen["max_loras"] = max(as_number(chosen.get("max_loras")) or calls.cpu_slots, len(_entries(calls, chosen))) + 1
    return chosen


def require_first(kind: Engine, base: str, options: Mapping[str, object]) -> None:
    """Look at the adapters that a server is to start with ("name=folder") before anything starts.

    Raises what `load` raises for them. Entries in the engine's other forms (JSON, a bare path) and those in `extra` are left to
    the engine.
    """
    calls = kind.adapters
    for entry in _entries(calls, options) if calls else []:
        name, equals, folder = entry.partition("=")
        if calls and equals and not name.startswith("{"):
            rank = as_number(options.get("max_lora_rank")) or calls.rank
            require_fitting(Path(folder).expanduser().resolve(), base, rank=rank)


def _entries(calls: Adapters, options: Mapping[str, object]) -> list[str]:
    """The adapters that the flags name for the start."""
    listed = options.get(calls.modules)
    return [str(entry) for entry in listed] if isinstance(listed, list | tuple) else [str(listed)] if listed else []


def require_fitting(folder: Path, base: str, *, rank: int | None, check: bool = True) -> None:
    """Raise unless `folder` holds an adapter that an engine with `base` can serve; prints what is worth a look."""
    from ..lora.checks import check as look
    from ..models.adapter import Adapter

    adapter = Adapter.read(folder)
    if not check or not _comparable(Path(base)):
        return
    report = look(base, adapter.folder, max_lora_rank=rank)
    if not report:
        error = report.error()
        raise AdapterError(error.cause, error.fix)
    for finding in report.findings:
        print(finding, flush=True)


def _comparable(base: Path) -> bool:
    """Whether there are plain weights to hold an adapter against."""
    try:
        quantised = json.loads((base / "config.json").read_text(encoding="utf-8")).get("quantization_config")
    except (OSError, ValueError):
        return False
    return not quantised and any(base.glob("*.safetensors"))


def _require_lora(server: Endpoint, calls: Adapters) -> None:
    if not {spelt("enable_lora"), spelt(calls.modules)} & set(split_words(server.command)):
        raise AdapterError(
            f"{server.engine.title} was started without LoRA.",
            "Start it with hot_adapters=True (it then takes adapters while it runs), or enable_lora=True and adapters at the start.",
        )


def _require_name(server: Endpoint, name: str) -> None:
    if not NAME.fullmatch(name):
        raise SettingError(f"{name!r} is no name for an adapter.", 'Use letters, digits, ".", "_" and "-": load_adapter("aiops", folder).')
    if name == server.model:
        raise SettingError(f"{name!r} is the name of the base model.", "Choose another one: clients tell them apart by it.")


def _require_slot(server: Endpoint, calls: Adapters) -> None:
    """On CPU the last slot must stay empty (see above). The log knows how many were used: unloading gives none back."""
    if server.device != "cpu" or not calls.cpu_slots:
        return
    slots = flag_number(server.command, "--max-loras") or 1
    used = server.log.read_text(errors="replace").count(calls.loaded)
    if used >= slots - 1:
        raise AdapterError(
            f"{server.engine.title} has loaded {used} adapters into its {slots} slots since it started, and on CPU the last one must "
            "stay empty: what lies there would answer for the base.",
            f"Start it anew with more slots: max_loras={max(2 * slots, used + 1)}.",
        )


def _change(server: Endpoint, path: str, body: Mapping[str, str]) -> None:
    status, content = ask(server, "POST", path, body)
    if status == 200:
        return
    message = error_message(content)
    if status == 404 and message == "Not Found":  # the web framework's own words: there is no such path
        raise AdapterError(
            f"{server.engine.title} was started without hot_adapters=True: it takes no adapters while it runs.",
            "Stop it and start it with hot_adapters=True. Whoever has the key can then make it read any folder that it can reach.",
        )
    verdict = explain_message(message, engine=server.engine.name)
    raise AdapterError(
        verdict.cause or f"{server.engine.title} refused: {message[:400]}", verdict.fix or f"Its log says more: {server.log}."
    )
