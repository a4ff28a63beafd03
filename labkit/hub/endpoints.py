"""Which hub a model comes from: the real ones, or the one that this kit runs on loopback for the models it makes itself.

`open_hub(profile)` gives either, so that a notebook has one set of cells: the same real clients, the same checks.
Covers: endpoints (with `HF_ENDPOINT` and `MODELSCOPE_ENDPOINT`), the life of the loopback hub, faults to practise with.
Does not cover: what the loopback hub answers (`hub_server`), fetching (`downloads`). Used by notebook 02.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ..common.errors import SettingError
from ..common.settings import settings
from ..models import course_model
from ..models.profiles import Profile
from ..models.profiles import profile as find_profile
from .loopback import Fault, HubServer, Repository

HUGGINGFACE = "https://huggingface.co"
MODELSCOPE = "https://www.modelscope.cn"


@dataclass
class Hub:
    """Where the three ways lead: `huggingface` and `modelscope` are API endpoints, `git` is the stem of clone addresses."""

    huggingface: str = HUGGINGFACE
    modelscope: str = MODELSCOPE
    git: str = MODELSCOPE
    local: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End what was started; the real hubs stay."""

    def fault(self, kind: str, pattern: str = "*", *, after: int = 0, times: int | None = None) -> None:
        """Let something go wrong, see `hub_server.Fault`; only on the loopback hub, else `SettingError`."""
        raise SettingError("Faults can be practised only on labkit's own hub.", 'Use a profile that this kit makes itself, such as "tiny".')

    def heal(self) -> None:
        """End all faults."""

    @property
    def bytes_sent(self) -> int | None:
        """Bytes of files that the hub has sent; None for the real hubs, which do not tell."""
        return None


class LoopbackHub(Hub):
    """A hub on 127.0.0.1 with a free port and one thread of this process; `folders` maps model ids to folders."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._git_root = Path(tempfile.mkdtemp(prefix="labkit-hub-"))
        self._server = HubServer({name: Repository(name, folder) for name, folder in folders.items()}, self._git_root)
        url = self._server.url
        super().__init__(huggingface=url, modelscope=url, git=url, local=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True, name="labkit-hub")
        self._thread.start()

    def close(self) -> None:
        if self._thread.is_alive():
            self._server.close()
            self._thread.join()
        shutil.rmtree(self._git_root, ignore_errors=True)

    def fault(self, kind: str, pattern: str = "*", *, after: int = 0, times: int | None = None) -> None:
        self._server.faults.append(Fault(kind, pattern, after, times))

    def heal(self) -> None:
        self._server.faults.clear()

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
    `HF_ENDPOINT` and `MODELSCOPE_ENDPOINT` name.
    """
    wanted = profile if isinstance(profile, Profile) else find_profile(profile)
    if not wanted.local:
        return real_hub()
    folder = settings().caches / "hub" / wanted.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    course_model.make(wanted, folder)
    return LoopbackHub({wanted.modelscope: folder, wanted.huggingface: folder})


def real_hub(environment: Mapping[str, str] | None = None) -> Hub:
    """The public hubs, or the mirrors that `environment` (default: this process's) names."""
    env = os.environ if environment is None else environment
    modelscope = _with_scheme(env.get("MODELSCOPE_ENDPOINT") or env.get("MODELSCOPE_DOMAIN") or MODELSCOPE)
    return Hub(huggingface=_with_scheme(env.get("HF_ENDPOINT") or HUGGINGFACE), modelscope=modelscope, git=modelscope)


def _with_scheme(endpoint: str) -> str:
    address = endpoint.strip().rstrip("/")
    return address if "://" in address else f"https://{address}"
