"""One server, several tenants: who may use which adapter, and a log of who asked what.

    router = TenantRouter(server, {"team-a": "adapter-a", "team-b": None}, audit=path)     None is the base model
    router.ask("team-a", "Why is the pod restarting?")
    router.audit

What takes the place of model= in the hands of a client, in a few lines: tenant -> adapter -> model=. A tenant that is not in the
table, and an adapter that is not loaded, is an error and never somebody else's answer; nothing that a tenant sends can name
another adapter. Every request leaves one line in the log, also one that failed or was refused.

Covers: routing inside one process. Does not cover: proving who a tenant is (a gateway's work, with a key for each), limits,
streams. The server's own key still opens every adapter: keep it with the router. Used by notebook 06.
"""

from __future__ import annotations

import datetime
import html
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..chat.dialogue import Conversation, Message, Reply
from ..chat.served import list_adapters
from ..common.errors import SettingError, UnknownTenant
from ..common.settings import settings
from .audit import Audit

if TYPE_CHECKING:
    from ..engines.endpoint import Endpoint


OURS = ("model", "stream", "messages")
"""Options that are not the tenant's to choose."""
LORA = "lora"
"""How the fields of a body begin by which SGLang would take another adapter (lora_path)."""


class TenantRouter:
    """`tenants` maps each tenant to the name of an adapter, or to None for the base. Safe for threads.

    `audit` is the log or its file; by default one for each server under the logs of the data home. Raises what `Audit` raises.
    """

    def __init__(self, server: Endpoint, tenants: Mapping[str, str | None], *, audit: Audit | str | Path | None = None) -> None:
        self.server, self.tenants = server, dict(tenants)
        path = audit or settings().logs / "audit" / f"{server.name}.jsonl"
        self.audit = path if isinstance(path, Audit) else Audit(path)

    def model(self, tenant: str) -> str:
        """What is asked as model= for `tenant`, as the server has it now.

        Raises `UnknownTenant` with those that are known, `AdapterError` if its adapter is not loaded, `NotRunning`.
        """
        adapter = self._adapter(tenant)
        return self.server.model if adapter is None else list_adapters(self.server).named(adapter).model

    def ask(self, tenant: str, messages: str | Iterable[Message], **options: Any) -> Reply:
        """Ask `tenant`'s model and return the reply. `messages` is a question, or a list that ends with one of the user's.

        `options` go into the request (max_tokens, temperature, extra_body); model, stream and SGLang's lora_path are refused.
        Raises what `model` raises and `SettingError` before anything is sent, then the client's `openai.APIError` children; and
        `LabError` if the log cannot be written: a reply that could not be logged is withheld.
        """
        request = uuid.uuid4().hex
        listed = [{"role": "user", "content": messages}] if isinstance(messages, str) else [dict(message) for message in messages]
        record = _Record(request, tenant, self.tenants.get(tenant), listed)
        try:
            _require_allowed(listed, options)
            record.model = self.model(tenant)
            record.status = "failed"
            reply = self._send(record, options)
        except BaseException as error:
            self.audit.write(record.line(error=f"{type(error).__name__}: {getattr(error, 'cause', error)}"))
            raise
        self.audit.write(record.line(reply))
        return reply

    def _send(self, record: _Record, options: dict[str, Any]) -> Reply:
        """vLLM takes X-Request-Id for its own id of the request, so that its log (--enable-log-requests) and ours go together."""
        *history, question = record.messages
        headers = {**(options.pop("extra_headers", None) or {}), "X-Request-Id": record.request}
        conversation = Conversation(self.server, messages=history)
        return conversation.ask(question["content"], model=record.model, extra_headers=headers, **options)

    def _adapter(self, tenant: str) -> str | None:
        if tenant not in self.tenants:
            known = ", ".join(self.tenants) or "none"
            fix = "Give it an entry: TenantRouter(server, {tenant: adapter})."
            raise UnknownTenant(f"There is no tenant {tenant!r}; known are: {known}.", fix)
        return self.tenants[tenant]

    def __str__(self) -> str:
        return "\n".join(f"{tenant} -> {adapter or f'{self.server.model} (base)'}" for tenant, adapter in self.tenants.items())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


@dataclass
class _Record:
    """One request on its way into the log. `status` becomes "failed" when it is sent, and "ok" when its reply is there."""

    request: str
    tenant: str
    adapter: str | None
    messages: list[dict[str, Any]]
    model: str = ""
    status: str = "refused"
    began: float = field(default_factory=time.monotonic)

    def line(self, reply: Reply | None = None, error: str = "") -> dict[str, Any]:
        """What is logged; `audit` masks it."""
        return {
            "time": datetime.datetime.now().astimezone().isoformat(timespec="milliseconds"),
            "request": self.request,
            "tenant": self.tenant,
            "adapter": self.adapter,
            "model": self.model,
            "status": "ok" if reply else self.status,
            "error": error,
            "finish": reply.finish if reply else "",
            "prompt_tokens": reply.prompt_tokens if reply else None,
            "output_tokens": reply.output_tokens if reply else None,
            "seconds": round(time.monotonic() - self.began, 3),
            "prompt": [f"{message.get('role')}: {_text(message.get('content'))}" for message in self.messages],
            "reasoning": reply.reasoning if reply else "",
            "reply": reply.answer if reply else "",
        }


def _text(content: Any) -> str:
    """The text of a message; of one in parts the text parts, and what the others are."""
    if isinstance(content, list):
        return " ".join(str(part.get("text", f"({part.get('type')})")) if isinstance(part, Mapping) else str(part) for part in content)
    return str(content or "")


def _require_allowed(messages: list[dict[str, Any]], options: Mapping[str, Any]) -> None:
    body = options.get("extra_body") or {}
    taken = [name for name in OURS if name in options or name in body]
    taken += [name for name in body if str(name).startswith(LORA)]
    if taken:
        raise SettingError(f"A tenant may not choose: {', '.join(taken)}.", "Leave it out: the table of tenants decides the model.")
    if not messages or messages[-1].get("role") != "user" or not isinstance(messages[-1].get("content"), str):
        raise SettingError("The last message is no question of the user's in text.", 'End with {"role": "user", "content": "..."}.')
