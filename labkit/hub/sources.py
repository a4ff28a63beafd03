"""The three ways to get a model, as data: ModelScope's client, Hugging Face's client, git with LFS.

Covers: ids, endpoints, environment of the client, caches, the plain shell line of each way.
Does not cover: running a client (`process`), what a client is told to do (`client`), what its failures mean (`failures`).
Used by notebook 02 through `downloads`.
"""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit
from urllib.request import proxy_bypass

from ..common.errors import DownloadError, LabError, SettingError
from ..common.settings import settings
from ..models.listing import Listing, RemoteFile
from ..models.profiles import Profile
from . import failures, listings, printed, variables
from .endpoints import Hub
from .patience import Patience
from .questions import proxies
from .verdicts import Asked

LOOPBACK = "127.0.0.1,localhost"
QUIET = {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_OFFLINE": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_LFS_SKIP_SMUDGE": "1",
}


@dataclass(frozen=True)
class Source:
    """One way. `proxy`: whether it goes through the proxy of the environment unless told otherwise.

    AutoDL's /etc/network_turbo sets a proxy that helps Hugging Face and slows ModelScope down (facts/autodl.md).
    """

    name: str
    title: str
    endpoint_variable: str
    proxy: bool
    by_id: bool

    def model(self, profile: Profile) -> str:
        """The id of `profile` at this hub; git clones from ModelScope, which is reachable everywhere."""
        return profile.huggingface if self.name == "huggingface" else profile.modelscope

    def endpoint(self, hub: Hub) -> str:
        """Where this way finds `hub`: an API endpoint, or the stem of clone addresses."""
        return {"modelscope": hub.modelscope, "huggingface": hub.huggingface, "git-lfs": hub.git}[self.name]

    def asked(self, profile: Profile, hub: Hub, *, proxy: bool, place: Path) -> Asked:
        """Who is asked for what, for the words of a failure."""
        endpoint, model = self.endpoint(hub), self.model(profile)
        through = proxies().get(endpoint.partition("://")[0], "") if proxy and not hub.local else ""
        through = "" if proxy_bypass(urlsplit(endpoint).netloc) else through
        token = any(os.environ.get(name) for name in variables.TOKENS)
        mirror = _not_public(self, hub) and not hub.local
        return Asked(self.name, self.title, endpoint, model, str(place), variables.shown(through), token, mirror)

    def listing(self, asked: Asked, hub: Hub, *, proxy: bool, patience: Patience) -> Listing:
        """What the hub says the model consists of. Raises `DownloadError`, and `SettingError` for a variable that is in the way."""
        through = proxy and not hub.local
        variables.check(os.environ, proxy=through)
        ask = listings.huggingface if self.name == "huggingface" else listings.modelscope
        return ask(asked.endpoint, asked.model, proxy=through, asked=asked, patience=patience)

    def environment(self, hub: Hub, *, proxy: bool) -> dict[str, str]:
        """The environment of the client's process; clients read theirs when they are imported.

        A hub on this machine needs no proxy, and a client that is told of a SOCKS proxy fails even where it would not use it.
        """
        env = {**variables.cleaned(os.environ), **settings().cache_environment(), **QUIET}
        if not proxy or hub.local:
            env = {name: value for name, value in env.items() if name not in variables.PROXIES}
        direct = ",".join(part for part in (env.get("NO_PROXY") or env.get("no_proxy") or "", LOOPBACK) if part)
        env |= {"NO_PROXY": direct, "no_proxy": direct}
        if self.endpoint_variable:
            env[self.endpoint_variable] = self.endpoint(hub)
        if self.name == "git-lfs":
            env |= {"LC_ALL": "C.UTF-8", "LANGUAGE": "C"}  # `printed` reads English
        env.setdefault("HF_HUB_DISABLE_XET", "1")  # mirrors do not carry Xet, and its partial files cannot be resumed
        return env

    def address(self, hub: Hub, model: str, file: RemoteFile, revision: str) -> str:
        """Where `file` can be asked for directly."""
        stem, path = self.endpoint(hub), quote(file.path)
        if self.name == "huggingface":
            return f"{stem}/{quote(model)}/resolve/{revision or 'main'}/{path}"
        return f"{stem}/api/v1/models/{quote(model)}/repo?Revision=master&FilePath={quote(file.path, safe='')}"

    def require(self) -> None:
        """Raise `LabError` if the programs of this way are not installed."""
        if self.name != "git-lfs":
            return
        for program in ("git", "git-lfs"):
            if not shutil.which(program):
                raise LabError(f"{program} is not installed.", f"apt-get update && apt-get install -y {program}")


SOURCES = {
    "modelscope": Source("modelscope", "ModelScope", "MODELSCOPE_ENDPOINT", proxy=False, by_id=True),
    "huggingface": Source("huggingface", "Hugging Face", "HF_ENDPOINT", proxy=True, by_id=True),
    "git-lfs": Source("git-lfs", "git with LFS", "", proxy=False, by_id=False),
}


def find(name: str) -> Source:
    """The way called `name`. Raises `SettingError`."""
    if name not in SOURCES:
        raise SettingError(f"There is no source {name!r}.", f"Use one of: {', '.join(SOURCES)}.")
    return SOURCES[name]


def cache_root(source: str, model: str) -> Path:
    """The folder in the client's own cache that holds all bytes of `model` when it is downloaded by id."""
    env = {**os.environ, **settings().cache_environment()}
    folder = model.replace("/", "--")
    if source == "huggingface":
        return Path(env.get("HF_HUB_CACHE") or Path(env["HF_HOME"]) / "hub").expanduser() / f"models--{folder}"
    return Path(env["MODELSCOPE_CACHE"]).expanduser() / "models" / folder


def cached_folder(source: str, model: str) -> Path | None:
    """The model's folder in the client's cache, or None if it was never downloaded by id."""
    root = cache_root(source, model)
    if source == "modelscope":
        revision = "master"
    else:
        try:
            revision = (root / "refs" / "main").read_text().strip()
        except OSError:
            return None
    folder = root / "snapshots" / revision
    return folder if folder.is_dir() else None


def shell_lines(source: Source, profile: Profile, hub: Hub, folder: Path | None) -> list[str]:
    """What a student would type in a terminal for the same download; `folder` None: by id, into the cache."""
    model, endpoint = source.model(profile), source.endpoint(hub)
    to = shlex.quote(str(folder)) if folder else ""
    if source.name == "git-lfs":
        return [f"GIT_LFS_SKIP_SMUDGE=1 git clone --depth 1 {endpoint}/{model}.git {to}", f"cd {to} && git lfs pull"]
    export = [f"export {source.endpoint_variable}={endpoint}"] if _not_public(source, hub) else []
    if source.name == "huggingface":
        return [*export, "export HF_HUB_DISABLE_XET=1", f"hf download {model}" + (f" --local-dir {to}" if to else "")]
    return [*export, f"modelscope download --model {model}" + (f" --local_dir {to}" if to else "")]


def _not_public(source: Source, hub: Hub) -> bool:
    return source.endpoint(hub) != source.endpoint(Hub())


def explain(source: Source, log: str, exit_code: int, log_file: Path) -> tuple[DownloadError | SettingError, bool]:
    """What the log of a client that told nothing means, and whether a second try could help."""
    asked = Asked(source.name, source.title)
    error, failure = failures.explain(printed.from_log(log), asked, exit_code, log_file)
    return error, failure.again
