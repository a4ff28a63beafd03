"""What `serve` starts, worked out before anything is: the argument list, the environment, ports, GPUs and files of one server.

Covers: every engine that serves a model. Does not cover: processes (`guards`), whether it runs already (`servers`), whether the model
fits. Used by notebooks 03, 04 and 06 through `serve`.
"""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.errors import SettingError
from ..common.settings import OWNERS, Settings, settings
from ..engines import ENGINES, model_engines, open_webui
from ..engines.demands import ON_WSL
from ..engines.engine import Engine
from ..engines.flags import flag_text, flags
from ..machine import gpu, host, ports, proxies
from ..models.profiles import Profile
from ..runtimes import environments
from . import keys
from .guards import require_port
from .hot_adapters import require_first, with_lora
from .model_source import choose_model, model_source, quantisation, weight_bytes
from .placement import place
from .preflight import half_precision, notes, require_capability, require_template
from .registry import Record, ServerFolder, alive
from .temporary import RENDEZVOUS

SMALL_BYTES = 100 * 2**20
"""Weights of a model folder that loads and computes at once: what then takes time on CPU is starting processes."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PORTS_TRIED = 200


@dataclass(frozen=True)
class Launch:
    """One server before its start. `environment` is added to this process's own and holds the key: print it nowhere."""

    engine: Engine
    record: Record
    environment: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def announcement(self) -> str:
        """The command as one could paste it, what config.json says about quantisation, and what is to be known beforehand."""
        quantised = quantisation(Path(self.record.source) / "config.json")
        note = f"\ncheckpoint: quantised, {quantised} (from its config.json; no flag is needed)" if quantised else ""
        return "\n".join([f"{self.record.shown}{note}", *self.notes])


def plan_launch(
    engine_name: str,
    model: str | Path | Profile = "auto",
    *,
    name: str | None = None,
    port: int | None = None,
    gpus: int | str | Sequence[int | str] | None = None,
    owner: str | None = None,
    use_modelscope: bool = False,
    hot_adapters: bool = False,
    extra: Sequence[str] = (),
    options: Mapping[str, object],
) -> Launch:
    """The launch that `serve` with the same arguments makes; starts nothing.

    Makes what a start needs and is not there: the folder of a course model, the engine's environment (minutes), the key. Raises
    `SettingError`, `ProfileError`, `GpuUnusable`, `PortInUse`, `InstallError` and what `hot_adapters.require_first` raises, the cheap ones
    first.
    """
    engine, config = _engine(engine_name), settings()
    server = _server_name(engine, name)
    if (owner or config.owner) not in OWNERS:
        raise SettingError(f"owner is {owner!r}.", 'Use "lab" (servers outlive the kernel) or "kernel" (they end with it).')
    if isinstance(extra, str) or not all(isinstance(word, str) for word in extra):
        raise SettingError(f"extra is {extra!r}.", 'Give a list of words: extra=["--seed", "1"].')
    _require_own_names(engine, options)
    device = gpu.device_kind()
    chosen_options = with_lora(engine, options, extra, hot=hot_adapters, device=device)
    chosen = choose_model(model)
    source, brought = model_source(chosen, config)
    served = str(
        chosen_options.pop("served_model_name", None) or (chosen.served_name if isinstance(chosen, Profile) else Path(source).name)
    )
    number = _port(engine, server, config) if port is None else _checked_port(port)
    argv = flags(
        {"served_model_name": served, "host": "127.0.0.1", "port": number}
        | _translate(engine, brought)
        | engine.flags
        | (engine.cpu_flags if device == "cpu" else {})
        | chosen_options
    )
    placement = place(engine, [*argv, *extra], device, gpus)
    argv += flags(half_precision([*argv, *extra], placement.devices)) if isinstance(chosen, Profile) else []
    require_capability(engine, [*argv, *extra], placement.devices)
    require_template(engine, [*argv, *extra])
    require_first(engine, source, chosen_options)
    if use_modelscope and not Path(source).is_dir():
        environments.require_named(engine.runtime, "modelscope")
    if not ServerFolder(server).status().alive:
        require_port(engine, server, number)
    python = str(environments.python(engine.runtime))
    model_argv = [engine.model_flag, source] if engine.model_flag else [source]
    command = [python, "-m", *engine.module, *model_argv, *keys.key_argv(engine, server, config), *argv, *extra]
    environment = _environment(engine, source, device, use_modelscope=use_modelscope) | placement.environment
    ways = _ways(python, flag_text([*argv, *extra], "--host") or "")
    if hot_adapters and engine.adapters:
        environment |= engine.adapters.environment
    environment |= _rendezvous(engine, ServerFolder(server, config).folder, command)
    stamp, folder = time.strftime("%Y%m%d-%H%M%S"), config.logs / server
    record = Record(
        name=server,
        engine=engine.name,
        command=command,
        shown=_shown(engine, server, config, command, environment, ways),
        port=number,
        model=served,
        source=source,
        key_file=str(keys.key_file(server, config)),
        out=str(folder / f"{stamp}.out.log"),
        err=str(folder / f"{stamp}.err.log"),
        owner=owner or config.owner,
        device=device,
        gpus=placement.gpus,
    )
    secret = keys.key_environment(engine, server, config)
    own = {**config.cache_environment(), **environments.own_path(engine.runtime), **environment}
    for variables in ways.values():
        own |= variables
    return Launch(engine, record, own | secret, tuple(notes(engine, source, [*argv, *extra], device)))


def _engine(name: str) -> Engine:
    if name not in model_engines():
        other = " Open-WebUI is started by labkit.webui.serve()." if name == open_webui.ENGINE.name else ""
        raise SettingError(f"There is no engine {name!r} that serves a model.{other}", f"Use one of: {', '.join(model_engines())}.")
    return ENGINES[name]


def _server_name(engine: Engine, name: str | None) -> str:
    """`name`, or the engine's. Raises `SettingError` for one that is no file name, or that another engine's server has by default."""
    if name is None:
        return engine.name
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise SettingError(f"{name!r} is no name for a server.", 'Use letters, digits, ".", "_" and "-": name="draft".')
    if name in ENGINES and name != engine.name:
        raise SettingError(f"{name!r} is the name of {ENGINES[name].title}'s own server.", 'Choose another one: name="draft".')
    return name


def _port(engine: Engine, server: str, config: Settings) -> int:
    """The engine's own port for the server that has its name; for another the one it runs on, or the next one that is free."""
    if server == engine.name:
        return config.ports[engine.name]
    taken = {record.name: record.port for _, record in alive()}
    if server in taken:
        return taken[server]
    first = config.ports[engine.name] + 1
    for number in range(first, min(first + PORTS_TRIED, 65536)):
        if number not in taken.values() and ports.listener(number) is None:
            return number
    raise SettingError(f"No port from {first} on is free.", "Give one: port=<1024 to 65535>.")


def _checked_port(port: int) -> int:
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
        raise SettingError(f"port is {port!r}.", "Give a number from 1024 to 65535, or leave it out.")
    return port


def _require_own_names(engine: Engine, options: Mapping[str, object]) -> None:
    """Raise `SettingError` for a flag that the other engine has, and for the one that labkit itself needs."""
    foreign = {name: engine.names[name] for name in options if name in engine.names}
    if foreign:
        what = ", ".join(f"{name} is {own}" for name, own in foreign.items())
        raise SettingError(f"{engine.title} has other words: {what}.", "labkit.flag_table() shows both engines' flags and how they differ.")
    if engine.key_flag in options:
        raise SettingError(
            f"{engine.title} takes one --{engine.key_flag} file, and labkit uses it for the key.",
            "Give the flags that are in yours as keywords.",
        )


def _translate(engine: Engine, brought: Mapping[str, Any]) -> dict[str, Any]:
    """A profile's flags, named and valued as this engine wants them."""
    return {engine.names.get(name, name): engine.values.get(name, {}).get(value, value) for name, value in brought.items()}


def _environment(engine: Engine, source: str, device: str, *, use_modelscope: bool) -> dict[str, str]:
    """What the engine gets besides this process's own environment, the caches' folders and the key."""
    environment, local = dict(engine.environment), Path(source).is_dir()
    if device == "cpu":
        environment |= engine.cpu_environment | (engine.small_environment if local and weight_bytes(source) < SMALL_BYTES else {})
    if device == "gpu" and host.wsl():
        environment |= {name: value for name, value in ON_WSL.get(engine.name, {}).items() if not os.environ.get(name)}
    if local:
        environment["HF_HUB_OFFLINE"] = "1"  # a folder needs no hub, and a slow hub must not hold up the start
    if use_modelscope and not local:
        environment[engine.hub_variable] = "True"
    return environment


def _rendezvous(engine: Engine, folder: Path, command: Sequence[str]) -> dict[str, str]:
    """Where the engine's own processes meet: in a file, unless its flags want a port (`Engine.rendezvous`)."""
    variable, *flags_of_ports = engine.rendezvous or ("",)
    if not variable or {word.split("=")[0] for word in command} & set(flags_of_ports):
        return {}
    return {variable: f"file://{folder / RENDEZVOUS}"}


def _ways(python: str, host: str) -> dict[str, dict[str, str]]:
    """How the engine finds its own tools and this machine: as one writes it in a terminal -> the variables.

    Its environment pins ninja, which torch and FlashInfer call by name; that folder is on nobody's PATH.
    """
    tools = str(Path(python).parent)
    hosts = [] if host in ("", "0.0.0.0", "::") else [host]
    exempt = proxies.exempt(hosts)
    shown = ",".join(dict.fromkeys([*proxies.LOOPBACK, *hosts]))
    return {
        f'PATH={shlex.quote(tools)}:"$PATH"': {"PATH": os.pathsep.join([tools, os.environ.get("PATH") or os.defpath])},
        f'no_proxy={shlex.quote(shown)},"$no_proxy"': exempt,
    }


def _shown(
    engine: Engine, server: str, config: Settings, command: Sequence[str], environment: Mapping[str, str], ways: Iterable[str]
) -> str:
    """The command as a line for a terminal; the key is read from its file when the line runs."""
    key = [f'{engine.key_variable}="$(cat {shlex.quote(str(keys.key_file(server, config)))})"'] if engine.key_variable else []
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in environment.items()), *ways, *key, shlex.join(command)])
