"""What `serving` has to know of an engine, as two dataclasses. Each engine fills them in a module of its own beside this one.

Covers: how to start one, how its log reads, how to tell that it works, how it takes adapters.
Does not cover: what its failures mean (`failures`), processes (`serving`), Python environments (`runtimes`), how a flag is spelt
(`engines.flags`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ..common.logs import Stage


@dataclass(frozen=True)
class Adapters:
    """How an engine serves LoRA adapters. `load` and `unload` take lora_name (and lora_path) as JSON while it runs."""

    load: str
    unload: str
    modules: str
    """The flag of the adapters that it starts with, spelt as a keyword."""
    model: str = "{adapter}"
    """What a client writes as model= to choose one."""
    rank: int | None = None
    """The largest rank where --max-lora-rank does not say it; None: as its first adapters have it."""
    environment: dict[str, str] = field(default_factory=dict)
    """What lets it take adapters while it runs, on top of --enable-lora."""
    loaded: str = ""
    """What its log says of each adapter that was loaded."""
    cpu_slots: int = 0
    """On CPU: --max-loras where nothing else is said, beside the one that stays empty (`serving.hot_adapters`); 0: it has no such fault."""
    gpu_only: bool = False
    """Whether it serves adapters on a GPU only."""


@dataclass(frozen=True)
class Engine:
    """One kind of server. Patterns are regular expressions over its log; paths are below http://127.0.0.1:PORT."""

    name: str
    title: str
    """The name as its makers write it."""
    runtime: str
    """The name of its Python environment (runtimes/engines.toml)."""
    module: tuple[str, ...]
    """The words after `python -m`; () where the command is made elsewhere."""
    port_variable: str
    """The environment variable with which a user chooses its port."""
    stages: tuple[Stage, ...]
    key_variable: str = ""
    """The environment variable that it takes its key from."""
    key_flag: str = ""
    """Of an engine that takes its key from no variable: the flag of a YAML file that holds it."""
    model_flag: str = ""
    """The flag before the model; "" where the model is the first word after the command."""
    hub_variable: str = ""
    """The environment variable that makes it take hub ids from ModelScope."""
    names: dict[str, str] = field(default_factory=dict)
    """Flags of the other engine -> what this one calls them."""
    values: dict[str, dict[str, str]] = field(default_factory=dict)
    """Flag -> value in a profile -> what this engine calls it."""
    health: str = "/health"
    probe: str = "/v1/completions"
    """Where one token is asked for before a server counts as ready; "" for servers that have no model."""
    kv_tokens: str = ""
    """One group: the tokens that fit in the KV cache, with thousands separators."""
    parallel: tuple[tuple[str, ...], ...] = ()
    """Flags that each multiply the GPUs it takes (tensor, pipeline, data parallel), in all their spellings."""
    no_prefixes: str = ""
    """The flag that switches the prefix cache off, of an engine whose metrics do not say whether it is on."""
    adapters: Adapters | None = None
    """None of an engine that serves no model of its own."""
    grace_seconds: float = 20.0
    """From SIGTERM to SIGKILL."""
    environment: dict[str, str] = field(default_factory=dict)
    cpu_environment: dict[str, str] = field(default_factory=dict)
    """On CPU, on top of `environment`."""
    flags: dict[str, object] = field(default_factory=dict)
    """Keywords that every start gets, unless the user says otherwise."""
    cpu_flags: dict[str, object] = field(default_factory=dict)
    """On CPU, on top of `flags`."""
    small_environment: dict[str, str] = field(default_factory=dict)
    """On CPU, for a model folder so small that starting costs more than computing (`serving.launch.SMALL_BYTES`)."""

    def stage_at(self, text: str, current: int) -> int:
        """The index of the latest stage that `text` shows to have begun, at least `current`."""
        for index in range(len(self.stages) - 1, current, -1):
            if re.search(self.stages[index].pattern, text):
                return index
        return current

    def kv_cache_tokens(self, log: str) -> int | None:
        """Tokens that fit in the KV cache as the engine itself reports them, None if the log does not say."""
        match = re.search(self.kv_tokens, log) if self.kv_tokens else None
        return int(match.group(1).replace(",", "")) if match else None
