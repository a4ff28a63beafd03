"""Open-WebUI, the chat page: started on 127.0.0.1 with everything set from outside, connected to the engines that run, proven.

    page = webui.serve()     starts it, or finds it running; returns when it is proven to work
    page.follow()            after an engine was stopped or started: connections, menu and default model follow
    page.verify(url, key)    why a connection does or does not work
    page.stop()

Ready means: an account exists (an empty Open-WebUI makes its first visitor the administrator), the answer comes from our own
process, each running engine is connected under its key, its model is in the menu, and one question was answered, once through
the API and once as the page asks it.

Covers: start, connections, proof. Does not cover: what it is started with (`launch`), the data folder (`data`), single requests
(`api`), the engines, the way in from another machine (`machine.tunnels`). Used by notebook 05 and `./lab up open-webui`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..common.errors import ConnectionFailed, NotRunning, SettingError, SignInFailed, StartFailed
from ..common.progress import Progress
from ..common.settings import settings
from ..engines import model_engines
from ..engines.open_webui import ENGINE
from ..machine import ports
from ..runtimes import environments
from ..serving.registry import Record, ServerFolder, entries
from ..serving.server import Server, running, start
from ..serving.server import attach as attach_engine
from ..serving.stopping import StopReport
from .api import Api
from .connections import Connection, ConnectionCheck, clean, same_place
from .data import EMAIL, Data, data
from .database import require_writable
from .launch import PageLaunch, deployment

START_SECONDS = 900.0
"""8 s on an idle machine with two cores; 200 s were seen on a busy one."""
QUESTION = "What is a KV cache?"
TOKENS = 8
NOTE = "   note  "
"""How a line of the proof begins that is worth knowing and no failure."""
FACTORY_URL = "https://api.openai.com/v1"
"""The connection that a new Open-WebUI brings along: without a key of the user's it leads nowhere, and it is removed."""


class WebUI:
    """A running Open-WebUI, seen by its administrator."""

    def __init__(self, server: Server, own: Data) -> None:
        self.server, self.data = server, own
        self._api: Api | None = None

    def __repr__(self) -> str:
        return f"<Open-WebUI at {self.url}: {self.server.state}; sign in as {self.email}, password in {self.password_file}>"

    @property
    def url(self) -> str:
        """Where the page is, on this machine."""
        return self.server.url

    @property
    def email(self) -> str:
        """The administrator's name for signing in."""
        return EMAIL

    @property
    def password_file(self) -> Path:
        """The 0600 file with the administrator's password. Read it in a terminal: cell outputs are saved."""
        return self.data.password_file

    @property
    def api(self) -> Api:
        """A signed-in session. Raises `SignInFailed` when the account was made with another password."""
        if self._api is None:
            session = Api(self.url, self.data.folder)
            try:
                session.sign_in(EMAIL, self.data.password)
            except SignInFailed as error:
                if error.fix:
                    raise
                raise self._wrong_password() from None
            self._api = session
        return self._api

    def connections(self) -> list[Connection]:
        """All connections, those made by hand included; keys are not shown."""
        return self.api.connections()

    def models(self) -> list[str]:
        """The names in the page's model menu."""
        return self.api.models()

    def verify(self, url: str, key: str) -> ConnectionCheck:
        """Let Open-WebUI try a connection and say why it does not work; nothing is saved."""
        return self.api.verify(url, key)

    def add(self, url: str, key: str, prefix: str = "") -> Connection:
        """Add a connection, or change the one to the same place, after it was tried. A trailing slash is dropped.

        Raises `ConnectionFailed`, and saves nothing, when it does not work.
        """
        row = Connection(clean(url), key, prefix)
        verdict = self.verify(row.url, key)
        if not verdict.ok:
            raise ConnectionFailed(f"{row.url}: {verdict.cause}", verdict.fix)
        self.api.set_connections([*(old for old in self.connections() if not same_place(old, row)), row])
        return row

    def remove(self, url: str) -> None:
        """Remove the connection to `url`. Raises `SettingError` if there is none."""
        rows = self.connections()
        kept = [row for row in rows if not same_place(row, Connection(url))]
        if len(kept) == len(rows):
            raise SettingError(f"There is no connection to {url}.", f"There are: {', '.join(row.url for row in rows) or 'none'}.")
        self.api.set_connections(kept)

    def follow(self, servers: Sequence[Server] | None = None) -> list[str]:
        """Connect the engines that run (default: all that are ready), drop those that do not; returns their names in the menu.

        A connection of an engine carries the server's name as prefix ("vllm.tiny"), so that the menu tells which one answers.
        Connections made by hand stay, but for one to the same address. New chats begin with the first engine's model; the
        built-in tools are off.
        """
        engines = [server for server in (running() if servers is None else servers) if server.engine.probe and server.state == "ready"]
        ours = [Connection(server.api, server.key, server.name) for server in engines]
        kept = [row for row in self.connections() if not _made_by_us(row) and not any(same_place(row, new) for new in ours)]
        self.api.set_connections([*ours, *kept])
        names = [f"{server.name}.{server.model}" for server in engines]
        self.api.set_models(names[0] if names else "")
        return names

    def prove(self) -> list[str]:
        """Everything that "ready" means, tried; returns one line for each thing that holds.

        Raises at the first that does not: `StartFailed` (foreign process, no account), `SignInFailed`, `ConnectionFailed` with the
        reason. A connection made by hand that does not work is a line, no error.
        """
        with Progress("Proving that Open-WebUI works") as bar:
            began, lines = time.monotonic(), []
            for line in self._proofs():
                lines.append(line)
                bar.line(f"     ok  {line}" if not line.startswith(NOTE) else line)
                bar.update(time.monotonic() - began)
        return lines

    def stop(self) -> StopReport:
        """End it. Accounts, chats and connections stay in the data folder."""
        return self.server.stop()

    def _proofs(self) -> Iterator[str]:
        session = Api(self.url)
        version, given = session.version()
        if given != deployment(settings()):
            raise StartFailed(f"{self.url} answers, but it is another Open-WebUI ({version}).", "Stop that one: ss -ltnp shows it.")
        if not session.has_account():
            self.stop()
            raise StartFailed(
                "Open-WebUI runs without an account: its first visitor would become administrator. It has been stopped.",
                f"Rename {self.data.folder} and start again.",
            )
        yield f"Open-WebUI {version} answers, and it has an account"
        engines = [row.prefix for row in self.connections() if row.prefix in _server_names()]
        for row in self.connections():
            verdict = self.verify(row.url, row.key)
            if not verdict.ok and row.prefix in engines:
                raise ConnectionFailed(f"{row.prefix}: {verdict.cause}", verdict.fix)
            yield f"{'' if verdict.ok else NOTE}connection {row.prefix or '(made by hand)'}: {verdict}"
        listed = self.models()
        for prefix in engines:
            yield from self._prove_chat(prefix, listed)
        if not engines:
            yield f"{NOTE}no engine runs, so there is nobody to chat with: ./lab up vllm, then page.follow()"

    def _prove_chat(self, prefix: str, listed: list[str]) -> Iterator[str]:
        wanted = f"{prefix}.{attach_engine(prefix).model}"
        if wanted not in listed:
            raise ConnectionFailed(
                f"The menu has no {wanted}; it has: {', '.join(listed) or 'nothing'}.",
                "page.follow(); if it stays, the connection shows only certain models (its settings in the page).",
            )
        yield f"{wanted} is in the menu"
        self.api.complete(wanted, QUESTION, max_tokens=TOKENS)
        yield f"{wanted} answered through the API"
        self.api.ask_as_the_page(wanted, QUESTION, max_tokens=TOKENS)
        yield f"{wanted} answered as the page asks"

    def _wrong_password(self) -> SignInFailed:
        return SignInFailed(
            f"Open-WebUI does not take the password in {self.password_file} for {EMAIL}: the account in {self.data.folder} has another one "
            "(from an earlier run, or changed in the page).",
            f"Put the right one into that file; or labkit.webui.reset_password() gives the account the one in the file (chats stay); "
            f"or begin anew: stop it, then mv {self.data.folder} {self.data.folder}-old.",
        )


def serve(*, port: int | None = None, owner: str | None = None, origins: Iterable[str] = (), timeout: float = START_SECONDS) -> WebUI:
    """Start Open-WebUI on 127.0.0.1, or find it running, connect the engines that run, and prove that it works.

    The page accepts browsers that call it http://127.0.0.1 or http://localhost at this port or one of the two others that
    `labkit.tunnel` proposes; `origins` adds addresses ("https://...", where a port mapping of the platform shows it).
    `owner` as for `labkit.serve`. Prints the exact command line. Raises, before anything starts: `PortInUse`, `InstallError`,
    `NoSpace`, `DatabaseUnusable` for a database that somebody holds, `LabError` for a data folder of a newer version; then
    `StartFailed`, and what `WebUI.prove` raises: the page then stays up, and calling again goes on from there.
    """
    config = settings()
    number = port or config.ports[ENGINE.name]
    if not ServerFolder(ENGINE.name).status().alive:
        ports.require_free(number, ENGINE.port_variable)
    runtime = environments.install(ENGINE.runtime)
    version = runtime.versions[ENGINE.name]
    own = data(config)
    launch = PageLaunch(config, own, runtime.python, number, tuple(origins))
    record = launch.record(owner or config.owner)
    server = _running(record)
    if server is None:
        require_writable(own.database)
        own.prepare(version, launch.migrations)
        with _private_files():
            server = start(ENGINE, record, launch.secrets | launch.environment)
        print(record.shown, flush=True)
    page = WebUI(server.wait(timeout), own)
    own.used_by(version)
    page.follow()
    page.prove()
    return page


def attach() -> WebUI:
    """The Open-WebUI that runs here, started by whichever notebook or terminal. Raises `NotRunning`."""
    status = ServerFolder(ENGINE.name).status()
    if not status.alive:
        raise NotRunning(f"Open-WebUI does not run here ({status.note}).", "./lab up open-webui, or labkit.webui.serve().")
    return WebUI(attach_engine(ENGINE.name), data(settings()))


def reset_password() -> None:
    """Give the administrator's account the password of its file. Chats and connections stay. Raises `SignInFailed`."""
    data(settings()).reset_password(environments.python(ENGINE.runtime))


def _server_names() -> set[str]:
    """The names under which engines run or ran here: the prefixes of connections that are ours to change."""
    named = {entry.name for entry in entries() if (record := entry.record) and record.engine in model_engines()}
    return named | set(model_engines())


def _made_by_us(row: Connection) -> bool:
    return row.prefix in _server_names() or (clean(row.url) == FACTORY_URL and not row.key)


def _running(wanted: Record) -> Server | None:
    """The one that already runs with these very settings, so that a cell can be run again."""
    entry = ServerFolder(ENGINE.name)
    record = entry.record
    same = record is not None and record.shown == wanted.shown and entry.status().state in ("starting", "ready")
    return Server(ENGINE, entry) if same else None


@contextmanager
def _private_files() -> Iterator[None]:
    """What is started inside writes files that only their owner can read."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
