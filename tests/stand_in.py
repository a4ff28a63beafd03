"""The one stand-in for a server in unit tests: an `Endpoint` with a port behind it, or with nobody behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from labkit.engines import ENGINES
from labkit.engines.endpoint import StartedEndpoint
from labkit.engines.engine import Engine

KEY = "sk-test"


@dataclass
class StandIn:
    """A server as everybody but the server layer sees one. Port 9 is nobody's."""

    port: int = 9
    engine: Engine = ENGINES["vllm"]
    name: str = "vllm"
    model: str = "tiny"
    source: str = "/models/tiny"
    device: str = "cpu"
    key: str = KEY
    key_file: Path = Path("/nowhere/vllm.key")
    log: Path = Path("/nowhere/vllm.log")
    command: list[str] = field(default_factory=lambda: ["python"])
    shown: str = ""
    alive: bool = True
    pids: Sequence[int] = ()
    stages: list[tuple[str, float]] = field(default_factory=list)
    ready_seconds: float = 0.0
    kv_cache_tokens: int | None = None
    memory_held: int | None = 0
    gpus: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def api(self) -> str:
        return f"{self.url}/v1"

    def answers(self) -> bool:
        return self.alive

    def processes(self) -> list[psutil.Process]:
        return [psutil.Process(pid) for pid in self.pids]


def _is_an_endpoint(stand_in: StandIn) -> StartedEndpoint:
    """The type checker holds it against the protocol here."""
    return stand_in
