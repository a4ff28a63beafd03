"""Who was asked for what in a download, and what its failure was: the words in which `failures` speaks.

Does not cover: finding it out (`failures`, `failed_connections`).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..common.errors import DownloadError, SettingError

KEPT = "What arrived is kept: run the same cell again."
ELSEWHERE = "Or take another source."


@dataclass(frozen=True)
class Asked:
    """Who was asked for what, with which settings: it decides which advice is possible. `mirror`: of a mirror that the reader chose."""

    source: str = ""
    title: str = "The hub"
    endpoint: str = ""
    model: str = ""
    place: str = ""
    proxy: str = ""
    token: bool = False
    mirror: bool = False

    @property
    def host(self) -> str:
        """The host of the endpoint, with its port."""
        return self.endpoint.partition("://")[2].partition("/")[0] or self.title

    @property
    def variable(self) -> str:
        """The variable of the environment that names the hub."""
        return "HF_ENDPOINT" if self.source == "huggingface" else "MODELSCOPE_ENDPOINT"

    @property
    def through(self) -> str:
        """The proxy's address, to be put behind "proxy"."""
        return f" {self.proxy}" if self.proxy else ""

    @property
    def other_way(self) -> str:
        """Another way to the same model, never the one that is taken already."""
        if self.source != "huggingface":
            return 'Or take source="huggingface".'
        if self.mirror:
            return f'Or take source="modelscope", or another endpoint than {self.endpoint} (HF_ENDPOINT).'
        return 'Or take source="modelscope", or a mirror: export HF_ENDPOINT=https://hf-mirror.com before the notebook starts.'


@dataclass(frozen=True)
class Mishap:
    """What it was: `kind` for programs, cause and fix for people. `again`: whether a second try at once could help."""

    kind: str
    cause: str
    fix: str
    error: type[DownloadError] | type[SettingError] = DownloadError
    again: bool = False

    def raised(self, behind: str = "") -> DownloadError | SettingError:
        """The error to raise; `behind` is put behind the cause: the client's own words, its log."""
        return self.error(f"{self.cause} {behind}".strip(), self.fix)
