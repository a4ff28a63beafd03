"""What a server says it serves: its models and adapters by /v1/models, and what a client writes as model= for each.

A client chooses an adapter with model= alone; a header or another field of the body changes nothing in vLLM. SGLang (0.5.17) wants
base:name there, and answers a bare name from the base, without an error: `resolve_model_name` finds the words.
Does not cover: loading and unloading adapters (`serving.hot_adapters`). Used by notebook 06.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..common import tables
from ..common.errors import AdapterError, SettingError
from ..engines.engine import Adapters, Engine
from .http import ask, error_message

if TYPE_CHECKING:
    from ..engines.endpoint import Endpoint


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
        """In the order in which they were loaded."""
        return [adapter.name for adapter in self]

    def named(self, name: str) -> Served:
        """The one called `name`. Raises `AdapterError` that lists those that are there."""
        for adapter in self:
            if adapter.name == name:
                return adapter
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


def list_adapters(server: Endpoint) -> ServedAdapters:
    """The adapters that `server` has now, by its own /v1/models. Raises `NotRunning`, `AdapterError` (no such engine)."""
    return _adapters(adapter_api(server.engine), model_cards(server))


def resolve_model_name(server: Endpoint, wanted: str | None = None) -> str:
    """What a client writes as model= for `wanted`: the name of an adapter or of a model that `server` has; None is its own model.

    Raises `SettingError` for a name that it does not have, `NotRunning`. An engine without adapters is not asked.
    """
    name = wanted or server.model
    if server.engine.adapters is None:
        return name
    cards = model_cards(server)
    adapters = _adapters(server.engine.adapters, cards)
    if name in adapters.names:
        return adapters.named(name).model
    known = {card["id"] for card in cards if not card.get("parent")} | {one.model for one in adapters}
    if name not in known:
        raise SettingError(f"{server.url} serves no model {name!r}.", f"It has: {', '.join(sorted(known))}.")
    return name


def _adapters(api: Adapters, cards: Iterable[Mapping[str, Any]]) -> ServedAdapters:
    return ServedAdapters(
        Served(card["id"], api.model.format(base=card["parent"], adapter=card["id"]), card["root"], card["parent"])
        for card in cards
        if card.get("parent")
    )


def model_cards(server: Endpoint) -> list[dict[str, Any]]:
    """What /v1/models lists: "id" of each, of an adapter "parent" and "root" too, of a model mostly "max_model_len" (tokens).

    Raises `NotRunning`, `AdapterError` for a server that does not say.
    """
    status, content = ask(server, "GET", "/v1/models")
    if status != 200:
        raise AdapterError(f"{server.engine.title} does not say what it serves: {error_message(content)}", f"Its log: {server.log}.")
    return list(content["data"])


def adapter_api(engine: Engine) -> Adapters:
    """How `engine` takes adapters. Raises `AdapterError` for one that serves none."""
    if engine.adapters is None:
        raise AdapterError(f"{engine.title} serves no adapters.", "Attach to the engine behind it.")
    return engine.adapters
