"""The hub that this kit runs on loopback for the models it makes itself, with faults to practise with; and `open_hub`.

`open_hub(profile)` gives it or the real ones, so that a notebook has one set of cells: the same real clients, the same checks.
Covers: its life. Does not cover: what it answers (`routes`, `server`), real endpoints (`endpoints`). Used by notebook 02.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from ..common.settings import settings
from ..models import course_model
from ..models.profiles import Profile
from ..models.profiles import profile as find_profile
from .endpoints import Hub, real_hub
from .faults import Fault
from .repository import Repository
from .routes import ROUTES
from .server import HubServer
from .spoiling import spoil


class LoopbackHub(Hub):
    """A hub on 127.0.0.1 with a free port and one thread of this process; `folders` maps model ids to folders."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._git_root = Path(tempfile.mkdtemp(prefix="labkit-hub-"))
        self._server = HubServer({name: Repository(name, folder) for name, folder in folders.items()}, self._git_root, ROUTES, spoil)
        url = self._server.url
        super().__init__(huggingface=url, modelscope=url, git=url, local=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True, name="labkit-hub")
        self._thread.start()

    def close(self) -> None:
        if self._thread.is_alive():
            self._server.close()
            self._thread.join()
        shutil.rmtree(self._git_root, ignore_errors=True)

    def fault(self, kind: str, pattern: str = "*", *, after: int = 0, times: int | None = None, to: str = "127.0.0.1:9") -> None:
        self._server.faults.add(Fault(kind, pattern, after, times, to))

    def heal(self) -> None:
        self._server.faults.heal()

    @property
    def bytes_sent(self) -> int:
        return self._server.traffic.bytes_sent

    @property
    def requests(self) -> list[str]:
        """What was asked, as "GET /path", in order."""
        return list(self._server.traffic.requests)


def open_hub(profile: str | Profile = "auto") -> Hub:
    """The hub that holds `profile`: use it in a `with` block, or call `.close()`.

    For a model that this kit makes itself, the folder is made under `caches/hub` (MB, seconds, once) and served on
    127.0.0.1 until closed. For a real model nothing is started: the endpoints are the real ones, or the mirrors that
    `HF_ENDPOINT` and `MODELSCOPE_ENDPOINT` name. Raises `ProfileError` for a name that is not in profiles.toml.
    """
    wanted = profile if isinstance(profile, Profile) else find_profile(profile)
    if not wanted.local:
        return real_hub()
    folder = course_model.make(wanted, settings().caches / "hub" / wanted.name)
    return LoopbackHub({wanted.modelscope: folder, wanted.huggingface: folder})
