"""What Open-WebUI is started with: its command line, settings, secrets, and the record of it.

Everything is set from outside, so that the page never has to be clicked into shape. Secrets are in no command line and no record.

Covers: the words and variables of one start. Does not cover: starting, connections, proof (`page`), the data folder (`data`).
Used by `webui.serve` and bench/webui_ready.py.
"""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ..common.settings import Settings
from ..engines.open_webui import ENGINE
from ..machine import proxies
from ..machine.tunnels import local_ports
from ..runtimes import environments
from ..serving import keys
from ..serving.registry import Record
from .connections import clean
from .data import EMAIL, Data


@dataclass(frozen=True)
class PageLaunch:
    """One start of Open-WebUI under `config` with the data folder `data`, by the Python of its environment, on 127.0.0.1:`port`.

    `origins` are further addresses from which browsers may use the page ("https://...").
    """

    config: Settings
    data: Data
    python: Path
    port: int
    origins: tuple[str, ...] = ()

    @property
    def argv(self) -> list[str]:
        """The command line; without the script `open-webui`, which `pip install --target` leaves out, the same through Python."""
        script = self.python.with_name("open-webui")
        program = [str(script)] if script.exists() else [str(self.python), "-c", "from open_webui import app; app()"]
        return [*program, "serve", "--host", "127.0.0.1", "--port", str(self.port)]

    @property
    def environment(self) -> dict[str, str]:
        """The settings without secrets. Most are read at every start; those that Open-WebUI keeps in its database seed it once."""
        pages = [f"http://{host}:{port}" for port in local_ports(self.port) for host in ("127.0.0.1", "localhost")]
        return {
            **ENGINE.environment,
            **environments.own_path(ENGINE.runtime),
            "DATA_DIR": str(self.data.folder),
            "STATIC_DIR": str(self.data.folder / "static"),  # else it rewrites files inside its environment at each start
            "WEBUI_ADMIN_EMAIL": EMAIL,
            "WEBUI_ADMIN_NAME": "admin",
            "CORS_ALLOW_ORIGIN": ";".join([*pages, *(clean(origin) for origin in self.origins)]),
            "DEPLOYMENT_ID": deployment(self.config),
            **proxies.exempt(),  # it follows http_proxy, which network_turbo sets
        }

    @property
    def secrets(self) -> dict[str, str]:
        """The variables that nobody may see: the key that signs sessions, the administrator's password."""
        return {"WEBUI_SECRET_KEY": keys.key(ENGINE.name, self.config), "WEBUI_ADMIN_PASSWORD": self.data.password}

    @property
    def migrations(self) -> list[Path]:
        """The files of the changes that this Open-WebUI makes to its database, [] where they cannot be found."""
        return sorted(self.python.parent.parent.glob("lib/python3*/site-packages/open_webui/migrations/versions/*.py"))

    def record(self, owner: str) -> Record:
        """What `serving` keeps of it and shows: the whole line, in which secrets are read from their files."""
        logs, stamp = self.config.logs / ENGINE.name, time.strftime("%Y%m%d-%H%M%S")
        key_file = str(keys.key_file(ENGINE.name, self.config))
        words = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items() if name != "NO_PROXY"]
        files = {"WEBUI_SECRET_KEY": key_file, "WEBUI_ADMIN_PASSWORD": str(self.data.password_file)}
        words += [f'{name}="$(cat {shlex.quote(file)})"' for name, file in files.items()]
        return Record(
            name=ENGINE.name,
            engine=ENGINE.name,
            command=self.argv,
            shown=" ".join([*words, shlex.join(self.argv)]),
            port=self.port,
            model="-",
            source=str(self.data.folder),
            key_file=key_file,
            out=str(logs / f"{stamp}.out.log"),
            err=str(logs / f"{stamp}.err.log"),
            owner=owner,
            device="cpu",
        )


def deployment(config: Settings) -> str:
    """A name that only an Open-WebUI with this home's secret can have been given."""
    return sha256(keys.key(ENGINE.name, config).encode()).hexdigest()[:16]
