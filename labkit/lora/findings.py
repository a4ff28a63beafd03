"""What `check` reports: findings with what, where, what it breaks and how to fix it, as one table.

Used by notebook 06 through `labkit.lora.check`; `merge` refuses with the blocking ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ..common import tables
from ..common.errors import LabError

BLOCKS, LOOK = "blocks", "look"
WRAPPED = "wrapped names"
"""The kind of finding that only PEFT stumbles over: it leaves such keys out."""
THROUGH_PEFT = 'labkit.lora.merge(..., method="peft"), with the whole model in memory; or: '


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or differs. `kind` is its short name, by which `merge(accept=...)` can be told to go on.

    `fix` is what helps in any case; `peft` says that PEFT's own merge can do what labkit's does not. `computable` is false for what no
    `accept` can get over, because there is nothing to compute with.
    """

    kind: str
    what: str
    where: str
    breaks: str
    fix: str
    severity: str = BLOCKS
    peft: bool = False
    computable: bool = True

    @property
    def advice(self) -> str:
        """What to do about it."""
        return (THROUGH_PEFT if self.peft else "") + self.fix

    def __str__(self) -> str:
        return f"{self.severity} · {self.kind}: {self.what} ({self.where}). {self.breaks} Fix: {self.advice}"


@dataclass(frozen=True)
class Serving:
    """One engine's verdict: `reasons` against it, or none. `title` has the version that was read.

    `rank` is the --max-lora-rank that it takes, `unsure` what was not decided.
    """

    engine: str
    title: str
    reasons: tuple[str, ...]
    rank: int
    unsure: str = ""

    def __bool__(self) -> bool:
        return not self.reasons

    def __str__(self) -> str:
        if self.reasons:
            return f"{self.title} cannot serve it unmerged: {'; '.join(self.reasons)}."
        unsure = "".join(f"; {text}" for text in (self.unsure, "whether it has LoRA for models of this type was not looked at") if text)
        return f"{self.title} can serve it unmerged, with max_lora_rank={self.rank} or more{unsure}."


def _blocks(finding: Finding, accepted: set[str], peft: bool | Collection[str]) -> bool:
    by_peft = peft is not False
    if by_peft and finding.kind == WRAPPED:
        return True
    able = finding.peft and (isinstance(peft, bool) or finding.kind in peft)
    gone_on = finding.kind in accepted and (finding.computable or by_peft)
    return finding.severity == BLOCKS and not gone_on and not (by_peft and able)


@dataclass(frozen=True)
class CheckReport:
    """The findings on one adapter and its base. True when none of them blocks. `seconds` is how long looking took.

    `serving` says for each engine whether it can serve the adapter beside its base, unmerged, and why not.
    """

    base: str
    adapter: str
    findings: tuple[Finding, ...]
    seconds: float
    serving: tuple[Serving, ...] = ()

    def __bool__(self) -> bool:
        return not self.blocking()

    def blocking(self, accept: Iterable[str] = (), *, peft: bool | Collection[str] = False) -> tuple[Finding, ...]:
        """The findings that block, without those whose kind is in `accept` and that can be gone on with.

        `peft`: it is PEFT that merges; as a collection, the kinds that a PEFT of another version can do.
        """
        accepted = set(accept)
        return tuple(finding for finding in self.findings if _blocks(finding, accepted, peft))

    def __getitem__(self, kind: str) -> tuple[Finding, ...]:
        """The findings of one kind: `report["rope"]`; empty when there are none."""
        return tuple(finding for finding in self.findings if finding.kind == kind)

    def error(self, accept: Iterable[str] = (), *, peft: bool | Collection[str] = False) -> LabError:
        """The blocking findings as one error, for callers that cannot go on."""
        first, *others = self.blocking(accept, peft=peft)
        more = f" ({len(others)} more: {', '.join(finding.kind for finding in others)}; labkit.lora.check shows all.)" if others else ""
        return LabError(f"{first.what} ({first.where}). {first.breaks}{more}", first.advice)

    def summary(self) -> str:
        """One line: how many findings, and how long it took."""
        blocking = len(self.blocking())
        looks = len(self.findings) - blocking
        verdict = f"{blocking} block" if blocking != 1 else "1 blocks"
        return f"{self.adapter} on {self.base}: {verdict if blocking else 'nothing blocks'}, {looks} to look at ({self.seconds:.2f} s)"

    def rows(self) -> list[tuple[str, ...]]:
        """The table, heading first."""
        head = ("severity", "kind", "what · 发现", "where · 位置", "what it breaks · 后果", "how to fix · 处理")
        return [head, *((f.severity, f.kind, f.what, f.where, f.breaks, f.advice) for f in self.findings)]

    def __str__(self) -> str:
        return "\n".join([self.summary(), *(f"  {line}" for line in (*self.findings, *self.serving))])

    def _repr_html_(self) -> str:
        lines = "".join(f"<p>{tables.escaped(str(serving))}</p>" for serving in self.serving)
        return tables.as_html(self.rows(), self.summary()) + lines
