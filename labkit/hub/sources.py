"""The three ways to get a model, as data: ModelScope's client, Hugging Face's client, git with LFS.

Covers: ids, endpoints, environment of the client, caches, the plain shell line of each way, what its failures mean.
Does not cover: running a client (`process`), what a client is told to do (`client`). Used by notebook 02 through `downloads`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..common.errors import DownloadError, LabError, NoSpace, SettingError, VerificationError
from ..common.settings import settings
from ..models.listing import Listing
from ..models.profiles import Profile
from . import listings
from .endpoints import Hub

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
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

    def listing(self, profile: Profile, hub: Hub, *, proxy: bool) -> Listing:
        """What the hub says the model consists of. Raises `DownloadError`."""
        through = proxy and not hub.local
        ask = listings.huggingface if self.name == "huggingface" else listings.modelscope
        return ask(self.endpoint(hub), self.model(profile), proxy=through)

    def environment(self, hub: Hub, *, proxy: bool) -> dict[str, str]:
        """The environment of the client's process; clients read theirs when they are imported."""
        env = {**os.environ, **settings().cache_environment(), **QUIET}
        if not proxy:
            env = {name: value for name, value in env.items() if name not in PROXIES}
        direct = ",".join(part for part in (env.get("NO_PROXY") or env.get("no_proxy") or "", LOOPBACK) if part)
        env |= {"NO_PROXY": direct, "no_proxy": direct}
        if self.endpoint_variable:
            env[self.endpoint_variable] = self.endpoint(hub)
        env.setdefault("HF_HUB_DISABLE_XET", "1")  # mirrors do not carry Xet, and its partial files cannot be resumed
        return env

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


FAILURES: tuple[tuple[str, type[DownloadError], str, str], ...] = (
    (
        r"(?i)no space left on device|Errno 28|disk full",
        NoSpace,
        "The disk ran full while downloading.",
        "Make room, then run the same cell again: what arrived is kept.",
    ),
    (
        r"(?i)hash mismatch|expected OID|FileIntegrityError|FileSizeMismatch|Consistency check failed|size validation failed",
        VerificationError,
        "The hub delivered other bytes than it lists.",
        "Try again later, or take another source.",
    ),
    (
        r"(?i)\b404\b|not ?found|NotExist|does not exist",
        DownloadError,
        "The hub does not have what it lists (404).",
        "Try again later, or take another source.",
    ),
    (
        r"(?i)\b401\b|\b403\b|gated|authentication",
        DownloadError,
        "The hub wants you to log in for this model.",
        "Accept its terms in the browser, then export the token (HF_TOKEN or MODELSCOPE_API_TOKEN).",
    ),
    (
        r"(?i)ssl|certificate",
        DownloadError,
        "The encrypted connection to the hub failed.",
        "Switch the proxy off or on (proxy=False, proxy=True), or take another source.",
    ),
    (
        r"(?i)timed? ?out|connection|unreachable|resolve host|name resolution|disconnected|peer closed|early EOF|RemoteProtocolError",
        DownloadError,
        "The connection to the hub broke, and again when tried anew.",
        "Run the same cell again: what arrived is kept. Else take another source, or a mirror (HF_ENDPOINT=https://hf-mirror.com).",
    ),
)
"""(what the client's log says, error, cause, fix); the first that matches counts. Texts of the clients named in pyproject.toml."""

FINAL = (r"(?i)no space left", r"\b40[134]\b", r"(?i)gated|NotExist")
"""What a second try does not change."""

STAMP = re.compile(r"^\d{4}-\d\d-\d\d [\d:,.]+ \| *(\w+) *\| *")
"""What ModelScope's log puts before each line: time (whose milliseconds may read 404) and level."""


def explain(source: Source, log: str, exit_code: int, log_file: Path) -> tuple[DownloadError, bool]:
    """What the end of a failed client means, and whether a second try could help."""
    lines = _telling_lines(log)
    ended = f"{source.title}'s client ended with code {exit_code}"
    for pattern, error, cause, fix in FAILURES:
        line = next((line for line in lines if re.search(pattern, line)), None)
        if line:
            again = not any(re.search(final, line) for final in FINAL)
            return error(f"{cause} {ended}: {line[:300]}\nIts log: {log_file}", fix), again
    last = next((line for line in reversed(lines) if re.search(r"(?i)error|fatal|fail", line)), lines[-1] if lines else "no word of why")
    fix = "Run the same cell again: what arrived is kept. Or take another source."
    return DownloadError(f"{ended}: {last[:300]}\nIts log: {log_file}", fix), True


def _telling_lines(log: str) -> list[str]:
    stamped = [(STAMP.match(line), line.strip()) for line in log.splitlines() if line.strip()]
    return [line[stamp.end() :] if stamp else line for stamp, line in stamped if not stamp or stamp[1] != "INFO"]
