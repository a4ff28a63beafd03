"""What everybody but the server layer has to know of a server: where it answers, with which key, as which model, on what device.

A `serving.Server` is one, and so is whatever else answers an OpenAI client: a router, a server elsewhere, a stand-in in a test.
Data and two questions; nothing here starts or stops anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import psutil

    from .engine import Engine


class Endpoint(Protocol):
    """A place that answers requests. All but `answers` is known without asking it."""

    @property
    def name(self) -> str:
        """The name it runs under."""

    @property
    def url(self) -> str:
        """http://127.0.0.1:PORT"""

    @property
    def api(self) -> str:
        """The OpenAI-compatible root, what clients call base_url."""

    @property
    def key(self) -> str:
        """The API key. Do not print it: cell outputs are saved."""

    @property
    def key_file(self) -> Path:
        """The 0600 file that holds the key."""

    @property
    def model(self) -> str:
        """What clients write as `model=`."""

    @property
    def source(self) -> str:
        """The folder or hub id that is served."""

    @property
    def engine(self) -> Engine:
        """What serves."""

    @property
    def device(self) -> str:
        """ "gpu" or "cpu"."""

    @property
    def gpus(self) -> list[str]:
        """The UUIDs of its GPUs, [] without one or where they are not this machine's."""

    @property
    def command(self) -> list[str]:
        """The argument list that runs."""

    @property
    def shown(self) -> str:
        """The same as a line for a terminal, with the environment that matters and without the key."""

    @property
    def log(self) -> Path:
        """Its standard output."""

    def processes(self) -> Sequence[psutil.Process]:
        """Its live processes; none where they are not this machine's."""

    def answers(self) -> bool:
        """Whether /health says 200 now."""


class StartedEndpoint(Endpoint, Protocol):
    """An endpoint whose start was watched. Seconds, bytes per GPU, tokens."""

    @property
    def stages(self) -> list[tuple[str, float]]:
        """(stage, seconds) of its start, in order."""

    @property
    def ready_seconds(self) -> float:
        """From start to ready."""

    @property
    def kv_cache_tokens(self) -> int | None:
        """Tokens that fit in the KV cache, None if the log does not say."""

    @property
    def memory_held(self) -> int | None:
        """Bytes that its GPUs hold more than before its start, None where another server shares one; without a GPU those resident."""
