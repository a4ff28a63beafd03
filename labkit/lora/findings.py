"""What `check` reports: findings with what, where, what it breaks and how to fix it, as one table.

Used by notebook 06 through `labkit.lora.check`; `merge` refuses with the blocking ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..common import tables
from ..common.errors import LabError

BLOCKS, LOOK = "blocks", "look"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or differs. `kind` is its short name, by which `merge(accept=...)` can be told to go on."""

    kind: str
    what: str
    where: str
    breaks: str
    fix: str
    severity: str = BLOCKS

    def __str__(self) -> str:
        return f"{self.severity} · {self.kind}: {self.what} ({self.where}). {self.breaks} Fix: {self.fix}"


@dataclass(frozen=True)
class CheckReport:
    """The findings on one adapter and its base. True when none of them blocks. `seconds` is how long looking took."""

    base: str
    adapter: str
    findings: tuple[Finding, ...]
    seconds: float

    def __bool__(self) -> bool:
        return not self.blocking()

    def blocking(self, accept: Iterable[str] = ()) -> tuple[Finding, ...]:
        """The findings that block, without those whose kind is in `accept`."""
        accepted = set(accept)
        return tuple(finding for finding in self.findings if finding.severity == BLOCKS and finding.kind not in accepted)

    def __getitem__(self, kind: str) -> tuple[Finding, ...]:
        """The findings of one kind: `report["rope"]`; empty when there are none."""
        return tuple(finding for finding in self.findings if finding.kind == kind)

    def error(self, accept: Iterable[str] = ()) -> LabError:
        """The blocking findings as one error, for callers that cannot go on."""
        first, *others = self.blocking(accept)
        more = f" ({len(others)} more: {', '.join(finding.kind for finding in others)}; labkit.lora.check shows all.)" if others else ""
        return LabError(f"{first.what} ({first.where}). {first.breaks}{more}", first.fix)

    def summary(self) -> str:
        """One line: how many findings, and how long it took."""
        blocking = len(self.blocking())
        looks = len(self.findings) - blocking
        verdict = f"{blocking} block" if blocking != 1 else "1 blocks"
        return f"{self.adapter} on {self.base}: {verdict if blocking else 'nothing blocks'}, {looks} to look at ({self.seconds:.2f} s)"

    def rows(self) -> list[tuple[str, ...]]:
        """The table, heading first."""
        head = ("severity", "kind", "what · 发现", "where · 位置", "what it breaks · 后果", "how to fix · 处理")
        return [head, *((f.severity, f.kind, f.what, f.where, f.breaks, f.fix) for f in self.findings)]

    def __str__(self) -> str:
        return "\n".join([self.summary(), *(f"  {finding}" for finding in self.findings)])

    def _repr_html_(self) -> str:
        return tables.as_html(self.rows(), self.summary())
