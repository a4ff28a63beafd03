"""The engines: `serve` starts one, `attach` finds a running one. What differs between engines is data in their modules.

Used by notebooks 03, 04 and 05 and by `./lab up`.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from pathlib import Path
from typing import Any

from ..common.errors import ProfileError, SettingError
from ..common.settings import Settings, settings
from ..engines import ENGINES, model_engines, open_webui
from ..engines.engine import Engine
from ..engines.flags import flags
from ..machine.gpu import device_kind
from ..models.course_model import make
from ..models.profiles import Profile, profile, profiles
from ..runtimes import environments
from .hot_adapters import require_first, with_lora
from .registry import Record, ServerFolder
from .server import Server, start

SMALL_BYTES = 100 * 2**20
"""Weights of a model folder that loads and computes at once: what then takes time on CPU is starting processes."""


def serve(
    engine: str,
    model: str | Path | Profile = "auto",
    *,
    port: int | None = None,
    owner: str | None = None,
    wait: bool = True,
    timeout: float = 1800.0,
    use_modelscope: bool = False,
    hot_adapters: bool = False,
    extra: list[str] | None = None,
    **options: object,
) -> Server:
    """Start `engine` ("vllm" or "sglang") with `model` on 127.0.0.1 and return when it answers; if it runs already, attach to it.

    `model` is a profile's name, a folder, or a hub's id (`use_modelscope` takes that from ModelScope). Every other keyword is
    a flag of the engine, spelt with underscores: max_model_len=8192, gpu_memory_utilization=0.9, max_num_seqs=64,
    max_num_batched_tokens, tensor_parallel_size, pipeline_parallel_size, dtype, kv_cache_dtype, quantization,
    chat_template, reasoning_parser, enable_lora=True, lora_modules=["name=path"], load_format="dummy", host="0.0.0.0" (then
    the whole network can reach it; the default is this machine alone). SGLang's words differ: `labkit.flag_table()`.
    `hot_adapters` switches LoRA on and lets `Server.load_adapter` work while the server runs; off by default, because whoever has
    the key could then make the engine read any folder. Adapters given here are held against the base first (`serving.hot_adapters`).
    `extra` is passed through unchanged. A profile brings its own max_model_len (SGLang: context_length) and reasoning parser;
    say None to leave one out.

    `owner` "kernel" ends the server with this process, "lab" lets it outlive it (default: LABKIT_OWNER). `wait=False`
    returns at once. Prints the exact command line. Raises `LabError` children: before anything starts for an unknown
    engine, profile or folder, a busy port, a missing environment; `StartFailed` when the engine exits.
    """
    kind, where = _engine(engine), settings()
    _require_own_names(kind, options)
    device = device_kind()
    options = with_lora(kind, options, extra or [], hot=hot_adapters, device=device)
    chosen = _chosen(model)
    source, defaults = _source(chosen, where)
    served = options.pop("served_model_name", None) or (chosen.served_name if isinstance(chosen, Profile) else Path(source).name)
    number = port or where.ports[kind.name]
    words = (
        {"served_model_name": served, "host": "127.0.0.1", "port": number}
        | _in_its_words(kind, defaults)
        | kind.flags
        | (kind.cpu_flags if device == "cpu" else {})
        | options
    )
    require_first(kind, source, options)
    python = environments.python(kind.runtime)
    model_words = [kind.model_flag, source] if kind.model_flag else [source]
    command = [str(python), "-m", *kind.module, *model_words, *_key_words(kind, where), *flags(words), *(extra or [])]
    environment = _environment(kind, source, device, use_modelscope=use_modelscope)
    if hot_adapters and kind.adapters:
        environment |= kind.adapters.environment
    record = _record(
        kind, where, command, environment, owner=owner or where.owner, device=device, port=number, model=str(served), source=source
    )
    server = _running(kind, record)
    if server is None:
        server = start(kind, record, {**where.cache_environment(), **_own_path(kind), **environment, **_key_environment(kind, where)})
        _announce(record, source)
    return server.wait(timeout) if wait else server


def _engine(name: str) -> Engine:
    if name not in model_engines():
        other = " Open-WebUI is started by labkit.webui.serve()." if name == open_webui.ENGINE.name else ""
        raise SettingError(f"There is no engine {name!r} that serves a model.{other}", f"Use one of: {', '.join(model_engines())}.")
    return ENGINES[name]


def _require_own_names(kind: Engine, options: dict[str, object]) -> None:
    """Raise `SettingError` for a flag that the other engine has, and for the one that labkit itself needs."""
    foreign = {name: kind.names[name] for name in options if name in kind.names}
    if foreign:
        what = ", ".join(f"{name} is {own}" for name, own in foreign.items())
        raise SettingError(f"{kind.title} has other words: {what}.", "labkit.flag_table() shows both engines' flags and how they differ.")
    if kind.key_flag in options:
        raise SettingError(
            f"{kind.title} takes one --{kind.key_flag} file, and labkit uses it for the key.",
            "Give the flags that are in yours as keywords.",
        )


def _in_its_words(kind: Engine, brought: dict[str, Any]) -> dict[str, Any]:
    """A profile's flags, named and valued as this engine wants them."""
    return {kind.names.get(name, name): kind.values.get(name, {}).get(value, value) for name, value in brought.items()}


def _key_words(kind: Engine, where: Settings) -> list[str]:
    """The flag of the file that holds the key, for an engine that takes it from no variable; the file is written here."""
    if not kind.key_flag:
        return []
    path = where.key_file(kind.name).with_suffix(".yaml")
    text = f"api-key: {where.key(kind.name)}\n"
    if not path.exists() or path.read_text() != text:
        draft = path.with_suffix(f".{os.getpid()}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
            stream.write(text)
        draft.replace(path)
    return [f"--{kind.key_flag}", str(path)]


def _key_environment(kind: Engine, where: Settings) -> dict[str, str]:
    return {kind.key_variable: where.key(kind.name)} if kind.key_variable else {}


def _own_path(kind: Engine) -> dict[str, str]:
    """An environment that the kit made sees only itself; one that was named may live from PYTHONPATH."""
    return {} if os.environ.get(environments.VARIABLE + kind.runtime.upper()) else {"PYTHONPATH": ""}


def _chosen(model: str | Path | Profile) -> str | Path | Profile:
    """A profile where `model` is one or names one, else `model` itself."""
    if isinstance(model, str) and (model == "auto" or model in profiles()):
        return profile(model)
    return model


def _source(model: str | Path | Profile, where: Settings) -> tuple[str, dict[str, Any]]:
    """(folder or hub id, the flags that a profile brings). Raises `ProfileError` for a folder that is no model."""
    if isinstance(model, Profile):
        folder = model.folder(where)
        if model.local:
            make(model, folder)
        if not (folder / "config.json").exists():
            raise ProfileError(f"{model.name} is not at {folder}.", f'labkit.download("{model.name}") fetches it (notebook 02).')
        brought = {"max_model_len": model.max_model_len, "reasoning_parser": model.reasoning_parser}
        return str(folder), brought | ({"load_format": "dummy"} if model.weights == "dummy" else {})
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").exists():
            raise ProfileError(
                f"{path} has no config.json: it is no model folder.", "Give the folder that holds config.json and the weights."
            )
        return str(path.absolute()), {}
    if isinstance(model, Path) or str(model).startswith((".", "/", "~")):
        raise ProfileError(f"There is no folder {path}.", "Check the path; labkit.download puts a course model in its place.")
    if str(model).count("/") != 1:
        raise ProfileError(
            f"{model!r} is no profile, no folder and no hub id.", f"Profiles: auto, {', '.join(profiles())}; an id looks like org/name."
        )
    return str(model), {}


def _environment(kind: Engine, source: str, device: str, *, use_modelscope: bool) -> dict[str, str]:
    """What the engine gets besides this process's own environment, the caches' folders and the key."""
    words, local = dict(kind.environment), Path(source).is_dir()
    if device == "cpu":
        words |= kind.cpu_environment | (kind.small_environment if local and _weight_bytes(source) < SMALL_BYTES else {})
    if local:
        words["HF_HUB_OFFLINE"] = "1"  # a folder needs no hub, and a slow hub must not hold up the start
    if use_modelscope and not local:
        words[kind.hub_variable] = "True"
    return words


def _weight_bytes(folder: str) -> int:
    return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))


def _running(kind: Engine, wanted: Record) -> Server | None:
    """The server that already runs this very command in the same environment, so that a cell can be run again."""
    entry = ServerFolder(kind.name)
    record = entry.record
    return Server(kind, entry) if record and record.shown == wanted.shown and entry.status().state in ("starting", "ready") else None


def _record(kind: Engine, where: Settings, command: list[str], environment: dict[str, str], **rest: Any) -> Record:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    key_file = where.key_file(kind.name)
    shown_environment = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    shown_key = [f'{kind.key_variable}="$(cat {shlex.quote(str(key_file))})"'] if kind.key_variable else []
    shown = " ".join([*shown_environment, *shown_key, shlex.join(command)])
    folder = where.logs / kind.name
    return Record(
        name=kind.name,
        engine=kind.name,
        command=command,
        shown=shown,
        key_file=str(key_file),
        out=str(folder / f"{stamp}.out.log"),
        err=str(folder / f"{stamp}.err.log"),
        **rest,
    )


def _announce(record: Record, source: str) -> None:
    """The command as one could paste it, and what config.json says about quantisation."""
    print(record.shown, flush=True)
    quantised = _quantisation(Path(source) / "config.json")
    if quantised:
        print(f"checkpoint: quantised, {quantised} (from its config.json; no flag is needed)", flush=True)


def _quantisation(config: Path) -> str:
    """The quantization_config of a checkpoint in a few words, "" without one."""
    try:
        settings_found = json.loads(config.read_text()).get("quantization_config") or {}
    except (OSError, ValueError):
        return ""
    return ", ".join(f"{name} {settings_found[name]}" for name in ("quant_method", "bits", "activation_scheme") if name in settings_found)
