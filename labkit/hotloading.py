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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import logs, tables
from .engine import Adapters, Engine
from .errors import AdapterError, NotRunning, SettingError

if TYPE_CHECKING:
    import httpx

    from .server import Server

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LOAD_SECONDS = 120.0


@dataclass(frozen=True)
class Served:
    """An adapter that a server has. `model` is what clients write as model=, `base` the name of the model that it changes."""

    name: str
    model: str
    folder: str
    base: str

    def __str__(self) -> str:
        return f"{self.name}: model={self.model!r}, {self.folder} on {self.base}"


class ServedAdapters(tuple[Served, ...]):
    """The adapters of one server, in the order in which they were loaded; shows itself as a table."""

    @property
    def names(self) -> list[str]:
        return [one.name for one in self]

    def named(self, name: str) -> Served:
        """The one called `name`. Raises `AdapterError` that lists those that are there."""
        for one in self:
            if one.name == name:
                return one
        there = ", ".join(self.names) or "none"
        raise AdapterError(f"No adapter {name!r} is loaded; there is: {there}.", f'server.load_adapter("{name}", folder)')

    def rows(self) -> list[tuple[str, ...]]:
        """The table as text, heading first."""
        return [("adapter", "model=", "base", "folder"), *((one.name, one.model, one.base, one.folder) for one in self)]

    def __str__(self) -> str:
        return tables.plain(self.rows()) if self else "no adapters are loaded"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return tables.as_html(self.rows()) if self else f"<p>{self}</p>"


def served(server: Server) -> ServedAdapters:
    """The adapters that `server` has now, by its own /v1/models. Raises `NotRunning`, `AdapterError` (no such engine)."""
    calls = _calls(server.engine)
    return _adapters(calls, _cards(server))


def asked_as(server: Server, wanted: str | None = None) -> str:
    """What a client writes as model= for `wanted`: the name of an adapter or of a model that `server` has; None is its own model.

    Raises `SettingError` for a name that it does not have, `NotRunning`. An engine without adapters is not asked.
    """
    name = wanted or server.model
    if server.engine.adapters is None:
        return name
    cards = _cards(server)
    adapters = _adapters(server.engine.adapters, cards)
    if name in adapters.names:
        return adapters.named(name).model
    known = {card["id"] for card in cards if not card.get("parent")} | {one.model for one in adapters}
    if name not in known:
        raise SettingError(f"{server.url} serves no model {name!r}.", f"It has: {', '.join(sorted(known))}.")
    return name


def _adapters(calls: Adapters, cards: Iterable[Mapping[str, Any]]) -> ServedAdapters:
    return ServedAdapters(
        Served(card["id"], calls.model.format(base=card["parent"], adapter=card["id"]), card["root"], card["parent"])
        for card in cards
        if card.get("parent")
    )


def _cards(server: Server) -> list[dict[str, Any]]:
    status, content = _ask(server, "GET", "/v1/models")
    if status != 200:
        raise AdapterError(f"{server.engine.title} does not say what it serves: {_message(content)}", f"Its log: {server.log}.")
    return list(content["data"])


def load(server: Server, name: str, folder: str | Path, *, check: bool = True) -> Served:
    """Load the adapter in `folder` into `server` under `name`, which no other adapter may have. Returns it.

    `check` holds it against the base first (`lora.check`: shapes, target modules, rank; under 2 s), prints what is worth a look,
    and refuses what blocks; it needs the base's weights in a folder (not a hub id or load_format="dummy") that are not quantised,
    and else looks at the adapter alone. Weights that were trained anew need another folder or another name: vLLM's prefix cache
    goes by both, and would answer from the old ones.

    Raises `SettingError` for a name that cannot be, `NotRunning`, `VerificationError` for a damaged file, `LabError` for a folder
    that is no adapter, and `AdapterError`: does not fit, loaded already, the server was started without LoRA or without
    hot_adapters=True, or what the engine says.
    """
    calls = _calls(server.engine)
    _require_lora(server, calls)
    _require_name(server, name)
    found = served(server)
    if name in found.names:
        raise AdapterError(
            f"{server.engine.title} has an adapter {name!r} already, from {found.named(name).folder}.",
            f'server.unload_adapter("{name}") first, or choose another name.',
        )
    _require_slot(server, calls)
    chosen = Path(folder).expanduser().resolve()
    require_fitting(chosen, server.source, rank=_flag(server.command, "--max-lora-rank") or calls.rank, check=check)
    _change(server, calls.load, {"lora_name": name, "lora_path": str(chosen)})
    return served(server).named(name)


def unload(server: Server, name: str) -> None:
    """Take the adapter `name` from `server`: requests that run end as they began, new ones are refused.

    vLLM keeps its weights until another adapter needs the slot. SGLang (0.5.19) loads it again by itself if a client asks for it by name.
    Raises `NotRunning`, and `AdapterError` for a name that is not loaded or a server without hot_adapters=True.
    """
    calls = _calls(server.engine)
    _require_lora(server, calls)
    served(server).named(name)
    _change(server, calls.unload, {"lora_name": name})


def with_lora(kind: Engine, options: Mapping[str, object], extra: Iterable[str], *, hot: bool, device: str) -> dict[str, object]:
    """The flags for `serve` with LoRA switched on where `hot` asks for it.

    On CPU one slot is added, which stays empty (a --max-loras in `extra` is left as it is). Raises `SettingError` for an engine
    without adapters, and where it has them on a GPU only.
    """
    calls, words = kind.adapters, _words(extra)
    names = ["enable_lora", calls.modules] if calls else ["enable_lora"]
    if not (hot or any(options.get(name) or _spelt(name) in words for name in names)):
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
        chosen["max_loras"] = max(_number(chosen.get("max_loras")) or calls.cpu_slots, len(_entries(calls, chosen))) + 1
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
            rank = _number(options.get("max_lora_rank")) or calls.rank
            require_fitting(Path(folder).expanduser().resolve(), base, rank=rank)


def _entries(calls: Adapters, options: Mapping[str, object]) -> list[str]:
    """The adapters that the flags name for the start."""
    listed = options.get(calls.modules)
    return [str(entry) for entry in listed] if isinstance(listed, list | tuple) else [str(listed)] if listed else []


def _number(value: object) -> int | None:
    return int(str(value)) if str(value).isdigit() else None


def require_fitting(folder: Path, base: str, *, rank: int | None, check: bool = True) -> None:
    """Raise unless `folder` holds an adapter that an engine with `base` can serve; prints what is worth a look."""
    from .lora.adapters import Adapter
    from .lora.checks import check as look

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


def _calls(kind: Engine) -> Adapters:
    if kind.adapters is None:
        raise AdapterError(f"{kind.title} serves no adapters.", "Attach to the engine behind it.")
    return kind.adapters


def _require_lora(server: Server, calls: Adapters) -> None:
    if not {_spelt("enable_lora"), _spelt(calls.modules)} & set(_words(server.command)):
        raise AdapterError(
            f"{server.engine.title} was started without LoRA.",
            "Start it with hot_adapters=True (it then takes adapters while it runs), or enable_lora=True and adapters at the start.",
        )


def _require_name(server: Server, name: str) -> None:
    if not NAME.fullmatch(name):
        raise SettingError(f"{name!r} is no name for an adapter.", 'Use letters, digits, ".", "_" and "-": load_adapter("aiops", folder).')
    if name == server.model:
        raise SettingError(f"{name!r} is the name of the base model.", "Choose another one: clients tell them apart by it.")


def _require_slot(server: Server, calls: Adapters) -> None:
    """On CPU the last slot must stay empty (see above). The log knows how many were used: unloading gives none back."""
    if server.device != "cpu" or not calls.cpu_slots:
        return
    slots = _flag(server.command, "--max-loras") or 1
    used = server.log.read_text(errors="replace").count(calls.loaded)
    if used >= slots - 1:
        raise AdapterError(
            f"{server.engine.title} has loaded {used} adapters into its {slots} slots since it started, and on CPU the last one must "
            "stay empty: what lies there would answer for the base.",
            f"Start it anew with more slots: max_loras={max(2 * slots, used + 1)}.",
        )


def _flag(command: Iterable[str], flag: str) -> int | None:
    """The number behind a flag, the last one where it is given twice; None without one."""
    words = _words(command)
    found = [value for word, value in zip(words, words[1:], strict=False) if word == flag and value.isdigit()]
    return int(found[-1]) if found else None


def _spelt(name: str) -> str:
    """A keyword as a flag."""
    return "--" + name.replace("_", "-")


def _words(command: Iterable[str]) -> list[str]:
    """The words of a command line, --flag=value as two."""
    return [part for word in command for part in (word.split("=", 1) if word.startswith("--") else [word])]


def _change(server: Server, path: str, body: Mapping[str, str]) -> None:
    status, content = _ask(server, "POST", path, body)
    if status == 200:
        return
    message = _message(content)
    if status == 404 and message == "Not Found":  # the web framework's own words: there is no such path
        raise AdapterError(
            f"{server.engine.title} was started without hot_adapters=True: it takes no adapters while it runs.",
            "Stop it and start it with hot_adapters=True. Whoever has the key can then make it read any folder that it can reach.",
        )
    verdict = logs.explain(message, server.engine.explanations)
    raise AdapterError(
        verdict.cause or f"{server.engine.title} refused: {message[:400]}", verdict.fix or f"Its log says more: {server.log}."
    )


def _ask(server: Server, method: str, path: str, body: Mapping[str, str] | None = None) -> tuple[int, Any]:
    """Status and JSON (or text) of a request with the server's key."""
    import httpx

    headers = {"Authorization": f"Bearer {server.key}"}
    try:
        with httpx.Client(trust_env=False, timeout=LOAD_SECONDS) as client:
            answer = client.request(method, server.url + path, headers=headers, json=body)
    except httpx.TransportError as error:
        fix = f"./lab ps shows what runs; ./lab logs {server.name} says why."
        raise NotRunning(f"{server.url} does not answer: {error}.", fix) from error
    return answer.status_code, _content(answer)


def _content(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return answer.text


def _message(content: Any) -> str:
    """What went wrong, in the engine's words: vLLM's error.message, SGLang's error_message, FastAPI's detail."""
    if not isinstance(content, dict):
        return str(content)
    error = content.get("error")
    inner = error.get("message") if isinstance(error, dict) else error
    return str(inner or content.get("error_message") or content.get("detail") or content)
