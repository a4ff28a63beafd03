"""Open-WebUI over HTTP, as its own page talks to it: signing in, connections, models, one question. Measured with 0.12.4.

Two ways to ask are here, because they fail differently. `complete` is the OpenAI-compatible interface. `ask_as_the_page` sends
what the browser page sends, and Open-WebUI then adds to it: with its built-in tools on, 36 tool descriptions, which an engine
without a tool parser refuses, while `complete` goes through.

Covers: requests and what their failures mean. Does not cover: which connections there should be (`page`).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.disk import free_bytes
from ..common.errors import ConnectionFailed, LabError, NoSpace, NotRunning, SignInFailed
from .connections import Connection, ConnectionCheck, why
from .database import require_writable

if TYPE_CHECKING:
    import httpx


ANSWER_SECONDS = 300.0
"""For a first answer: an engine may still compile kernels."""
POLL_SECONDS = 0.2
FULL_BYTES = 1_000_000
"""SQLite cannot write a page and its log with less."""


class ApiError(LabError):
    """An answer with an HTTP error. `status` and `detail` are Open-WebUI's own."""

    def __init__(self, what: str, status: int, detail: str) -> None:
        self.status, self.detail = status, detail
        super().__init__(f"Open-WebUI refused to {what} (HTTP {status}): {detail[:300]}", "./lab logs open_webui shows what happened.")


class Api:
    """A session with one Open-WebUI, whose data are in `folder`. Nothing goes through a proxy: it is on this machine."""

    def __init__(self, url: str, folder: Path | None = None) -> None:
        import httpx

        self.url, self.folder = url, folder
        self._client: httpx.Client = httpx.Client(base_url=url, trust_env=False, timeout=httpx.Timeout(30.0, read=ANSWER_SECONDS))

    def call(self, method: str, path: str, body: object = None, *, what: str = "answer") -> Any:
        """One request; returns the parsed answer.

        Raises `NotRunning` if nothing answers, `ApiError` for an HTTP error, `NoSpace` for one where the data folder's disk is
        full and `DatabaseUnusable` where its database is locked: Open-WebUI itself says "Internal Server Error" for both (measured).
        """
        import httpx

        try:
            answer = self._client.request(method, path, json=body)
        except httpx.TransportError as error:
            fix = "./lab ps tells; labkit.webui.serve() starts it."
            raise NotRunning(f"Open-WebUI does not answer at {self.url} ({type(error).__name__}).", fix) from error
        if answer.is_error and self.folder and free_bytes(self.folder) < FULL_BYTES:
            raise NoSpace(
                f"Open-WebUI could not {what} (HTTP {answer.status_code}): the disk of {self.folder} is full.",
                "Make room there (./lab doctor shows the disks), then try again; what was saved before is whole.",
            )
        if answer.is_server_error and self.folder:
            require_writable(self.folder / "webui.db")
        if answer.is_error:
            raise ApiError(what, answer.status_code, _detail(answer))
        try:
            return answer.json()
        except ValueError:
            return answer.text

    def version(self) -> tuple[str, str]:
        """(version, the deployment id that it was started with)."""
        answer = self.call("GET", "/api/version")
        return answer["version"], answer.get("deployment_id") or ""

    def has_account(self) -> bool:
        """Whether somebody can sign in. While not, the first visitor becomes administrator, even with sign-up switched off."""
        return not self.call("GET", "/api/config").get("onboarding")

    def sign_in(self, email: str, password: str) -> None:
        """Use this account from now on. Raises `SignInFailed`."""
        try:
            account = self.call("POST", "/api/v1/auths/signin", {"email": email, "password": password}, what="sign in")
        except ApiError as error:
            if error.status == 429:
                raise SignInFailed("Open-WebUI refuses to sign in for now: too many attempts.", "Wait three minutes.") from None
            if error.status != 400:
                raise
            raise SignInFailed(f"Open-WebUI does not take the password for {email}.", "") from None
        self._client.headers["Authorization"] = f"Bearer {account['token']}"

    def connections(self) -> list[Connection]:
        """The connections to OpenAI-compatible servers, in order."""
        config = self.call("GET", "/openai/config", what="show its connections")
        keys = config["OPENAI_API_KEYS"] + [""] * len(config["OPENAI_API_BASE_URLS"])
        rows = []
        for index, (url, key) in enumerate(zip(config["OPENAI_API_BASE_URLS"], keys, strict=False)):
            settings = config["OPENAI_API_CONFIGS"].get(str(index)) or {}
            rows.append(Connection(url, key, settings.get("prefix_id") or "", bool(settings.get("enable", True))))
        return rows

    def set_connections(self, rows: Iterable[Connection]) -> None:
        """Replace all of them: Open-WebUI knows no smaller step. The settings of a connection that stays are kept."""
        before = self.call("GET", "/openai/config", what="show its connections")
        old = {url: before["OPENAI_API_CONFIGS"].get(str(index)) or {} for index, url in enumerate(before["OPENAI_API_BASE_URLS"])}
        listed = list(rows)
        body = {
            "ENABLE_OPENAI_API": True,  # left out, it is stored as null, and every connection is off
            "OPENAI_API_BASE_URLS": [row.url for row in listed],
            "OPENAI_API_KEYS": [row.key for row in listed],
            "OPENAI_API_CONFIGS": {
                str(index): {**old.get(row.url, {}), "enable": row.enabled, "prefix_id": row.prefix} for index, row in enumerate(listed)
            },
        }
        self.call("POST", "/openai/config/update", body, what="change its connections")

    def set_models(self, default: str) -> None:
        """Which model a new chat begins with ("": none); and no built-in tools, which vLLM refuses without a tool parser."""
        now = self.call("GET", "/api/v1/configs/models", what="show its model settings")
        metadata = now.get("DEFAULT_MODEL_METADATA") or {}
        metadata["capabilities"] = {**(metadata.get("capabilities") or {}), "builtin_tools": False}
        wanted = now | {"DEFAULT_MODELS": default, "DEFAULT_MODEL_METADATA": metadata}
        if wanted != now:
            self.call("POST", "/api/v1/configs/models", wanted, what="change its model settings")

    def models(self) -> list[str]:
        """The names in the page's model menu. An engine that is down is missing here without any error: `verify` says why."""
        return [row["id"] for row in self.call("GET", "/api/models", what="list the models")["data"]]

    def verify(self, url: str, key: str) -> ConnectionCheck:
        """Let Open-WebUI itself try a connection, just as it is written, and say what is wrong with it."""
        try:
            answer = self.call("POST", "/openai/verify", {"url": url, "key": key, "config": {}}, what="try the connection")
        except ApiError as error:
            return ConnectionCheck(url, (), *why(url, error.status, error.detail))
        rows = answer.get("data") if isinstance(answer, Mapping) else None
        if not isinstance(rows, list):
            return ConnectionCheck(
                url,
                (),
                "Something answers there, but it is no OpenAI-compatible server (a web page, perhaps Open-WebUI itself).",
                "Use the port of the engine: 8000 for vLLM, 30000 for SGLang; ./lab ps lists what runs.",
            )
        return ConnectionCheck(url, tuple(row["id"] for row in rows))

    def complete(self, model: str, question: str, **options: object) -> str:
        """One answer through the OpenAI-compatible interface. `options` join the request (max_tokens). Text, or reasoning alone."""
        body = {"model": model, "messages": [{"role": "user", "content": question}], **options}
        answer = self.call("POST", "/api/chat/completions", body, what=f"ask {model}")
        message = answer["choices"][0]["message"]
        return str(message.get("content") or message.get("reasoning") or message.get("reasoning_content") or "")

    def ask_as_the_page(self, model: str, question: str, **options: object) -> str:
        """One answer in the way the browser page asks: a saved chat, answered in the background; the chat is deleted afterwards.

        Returns the text, or the reasoning where `options` (max_tokens) cut it off before. Raises `ConnectionFailed` with the text
        that the page would show in the answer's place.
        """
        question_id, answer_id = str(uuid.uuid4()), str(uuid.uuid4())
        message = {"id": question_id, "parentId": None, "childrenIds": [], "role": "user", "content": question, "models": [model]}
        body = {
            "model": model,
            "stream": True,
            "messages": [{"role": "user", "content": question}],
            "params": options,
            "session_id": f"labkit-{question_id}",
            "parent_id": None,
            "user_message": message | {"timestamp": int(time.time())},
            "message_ids": [{"model_id": model, "message_id": answer_id}],
        }
        chat = self.call("POST", "/api/chat/completions", body, what=f"ask {model}")["chat_id"]
        try:
            return _text(model, self._wait(chat, answer_id))
        finally:
            self.call("DELETE", f"/api/v1/chats/{chat}", what="delete the chat of the test")

    def _wait(self, chat: str, answer: str) -> Mapping[str, Any]:
        deadline = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < deadline:
            message = self.call("GET", f"/api/v1/chats/{chat}", what="show a chat")["chat"]["history"]["messages"].get(answer) or {}
            if message.get("done") or message.get("error"):
                return dict(message)
            time.sleep(POLL_SECONDS)
        raise ConnectionFailed(f"No answer came after {ANSWER_SECONDS:.0f} s.", "Look at the engine: ./lab ps, ./lab logs.")


def _text(model: str, message: Mapping[str, Any]) -> str:
    if message.get("error"):
        error = message["error"]
        text = str(error.get("content") if isinstance(error, Mapping) else error)
        raise ConnectionFailed(f"The page shows, in place of an answer from {model}: {text}", _page_fix(text))
    parts = [part.get("text", "") for item in message.get("output") or [] for part in item.get("content") or []]
    return str(message.get("content") or "".join(parts))


def _page_fix(text: str) -> str:
    if "tool choice" in text or "tool-call-parser" in text:
        return (
            "Open-WebUI sends its built-in tools along. page.follow() switches them off for all models; in the page: Admin Settings, "
            "Models, the gear, Capabilities, Builtin Tools."
        )
    if "Connection Error" in text:
        return "The engine is down: ./lab ps; start it, then page.follow()."
    if "Unauthorized" in text:
        return "The key is wrong: page.follow() sets the engines' own keys."
    return "./lab logs open_webui, and the log of the engine, show more."


def _detail(answer: httpx.Response) -> str:
    try:
        content = answer.json()
    except ValueError:
        return answer.text.strip()
    return str(content.get("detail") or content.get("error") or content) if isinstance(content, Mapping) else str(content)
