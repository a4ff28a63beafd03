"""Where a hub answers: the real ones, and the mirrors that `HF_ENDPOINT` and `MODELSCOPE_ENDPOINT` name.

Covers: addresses, and what every hub can be told. Does not cover: the hub on loopback (`loopback`), asking (`listings`), fetching
(`downloads`). Used by notebook 02 through `labkit.open_hub`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ..common.errors import SettingError

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

    def fault(self, kind: str, pattern: str = "*", *, after: int = 0, times: int | None = None, to: str = "") -> None:
        """Let something go wrong, see `faults.Fault`; only on the loopback hub, else `SettingError`."""
        raise SettingError("Faults can be practised only on labkit's own hub.", 'Use a profile that this kit makes itself, such as "tiny".')

    def heal(self) -> None:
        """End all faults."""

    @property
    def bytes_sent(self) -> int | None:
        """Bytes of files that the hub has sent; None for the real hubs, which do not tell."""
        return None


def real_hub(environment: Mapping[str, str] | None = None) -> Hub:
    """The public hubs, or the mirrors that `environment` (default: this process's) names. Raises `SettingError` for no address."""
    env = os.environ if environment is None else environment
    modelscope = next((_endpoint(name, env[name]) for name in ("MODELSCOPE_ENDPOINT", "MODELSCOPE_DOMAIN") if env.get(name)), MODELSCOPE)
    huggingface = _endpoint("HF_ENDPOINT", env["HF_ENDPOINT"]) if env.get("HF_ENDPOINT") else HUGGINGFACE
    return Hub(huggingface=huggingface, modelscope=modelscope, git=modelscope)


def _endpoint(variable: str, value: str) -> str:
    """The address in `value`, without the quotes, blanks and slash that are often copied along."""
    address = value.strip().strip("\"'").rstrip("/")
    address = address if "://" in address else f"https://{address}"
    if not re.fullmatch(r"https?://[\w.\-\[\]:]+(/[\w.\-/]*)?", address):
        example = "https://hf-mirror.com" if variable == "HF_ENDPOINT" else MODELSCOPE
        raise SettingError(f"{variable}={value!r} is no address of a hub.", f"export {variable}={example}, or unset {variable}")
    return address
