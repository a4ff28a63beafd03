"""What a sweep measured: a row for each level, a table, a figure, a JSON file that loads again.

TTFT includes waiting in the server's queue. TPOT is (last token - first token) / (tokens - 1) of a request, ITL every gap by itself.
Does not cover: sending the load (`sweeps`), two results beside each other (`comparison`). Used by notebooks 03 and 04.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..common import files, tables
from ..common.figures import COLOURS, QUIET, Picture, caption, drawing, finish, new_figure, small_text, title
from .panels import concurrency_axis, latency_panel, line

if TYPE_CHECKING:
    from matplotlib.axes import Axes


WORTH_SAYING = 0.2
"""Share of the prompts in the prefix cache. One in n always is: the client tries its first prompt before it begins."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds over the requests of a level (ITL: over the gaps between tokens)."""

    mean: float
    median: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Run:
    """One level. Lengths are tokens per request, `duration` seconds, rates per second; `concurrency` is what was asked for.

    `running` and `waiting` are the most requests that the server itself reported at once during the level, sampled four times
    a second: a short level may miss its peak. None if the server does not say.
    """

    concurrency: int
    requests: int
    input_len: int
    output_len: int
    duration: float
    request_rate: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    ttft: Latency
    tpot: Latency
    itl: Latency
    failed: int
    seed: int
    running: int | None = None
    waiting: int | None = None
    spread: float = 0.0
    """Lengths were drawn evenly from so much below the mean to so much above it: 0.5 is half to one and a half times."""
    cached: float | None = None
    """Share of the prompt tokens that the prefix cache had, 0 to 1, as the server counts; None if it does not say."""

    def lengths(self) -> str:
        """ "1024 tokens in, 128 out", or "512 to 1536 tokens in, 64 to 192 out"."""
        return f"{self._span(self.input_len)} tokens in, {self._span(self.output_len)} out"

    def _span(self, mean: int) -> str:
        return f"{math.floor(mean * (1 - self.spread))} to {math.ceil(mean * (1 + self.spread))}" if self.spread else str(mean)


COLUMNS: tuple[tuple[str, Callable[[Run], str]], ...] = (
    ("concurrency", lambda run: str(run.concurrency)),
    ("requests", lambda run: str(run.requests)),
    ("failed", lambda run: str(run.failed)),
    ("requests/s", lambda run: f"{run.request_rate:.2f}"),
    ("output tokens/s", lambda run: f"{run.output_tokens_per_s:,.0f}"),
    ("TTFT median, ms", lambda run: f"{run.ttft.median:,.0f}"),
    ("TTFT p95, ms", lambda run: f"{run.ttft.p95:,.0f}"),
    ("TPOT median, ms", lambda run: f"{run.tpot.median:,.1f}"),
    ("TPOT p95, ms", lambda run: f"{run.tpot.p95:,.1f}"),
    ("most running", lambda run: "-" if run.running is None else str(run.running)),
    ("most waiting", lambda run: "-" if run.waiting is None else str(run.waiting)),
)


@dataclass(repr=False)
class Sweep:
    """All levels of one sweep with what is needed to read them: engine, version, model, machine, prefix caching."""

    engine: str
    version: str
    model: str
    machine: str
    prefix_caching: bool | None
    started: str
    limit: int | None = None
    """The server's --max-num-seqs (SGLang: --max-running-requests), None if it was left to the engine."""
    runs: list[Run] = field(default_factory=list)
    file: str = ""
    client: str = ""
    """Which benchmark client sent the load, with its version."""
    seed: int | None = None
    """What the prompts were made from: given to another sweep, it sends the same ones."""

    @property
    def failed(self) -> int:
        """Requests that failed, over all levels."""
        return sum(run.failed for run in self.runs)

    def caption(self) -> str:
        """n, lengths, concurrency, version, prefix caching: without them a number says nothing."""
        if not self.runs:
            return f"{self.engine} {self.version}, {self.model}: no level has ended"
        first = self.runs[0]
        requests = span([run.requests for run in self.runs])
        caching = {True: "on", False: "off", None: "not known"}[self.prefix_caching]
        return (
            f"{self.engine} {self.version}, {self.model}, {self.machine}; n = {requests} requests per level, "
            f"{first.lengths()}, concurrency {span([run.concurrency for run in self.runs])}, "
            f"prefix caching {caching}, fresh random prompts per level"
            + (f", at most {self.limit} run at once" if self.limit else "")
            + known(self.runs)
        )

    def rows(self) -> list[list[str]]:
        """The table as text, heading first."""
        return [[name for name, _ in COLUMNS], *([show(run) for _, show in COLUMNS] for run in self.runs)]

    def __str__(self) -> str:
        return f"{tables.plain(self.rows())}\n{self.caption()}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return tables.as_html(self.rows(), self.caption())

    def figure(self) -> Picture:
        """Throughput and latency against concurrency (`sweep_figure`)."""
        return sweep_figure(self)

    def save(self, path: str | Path) -> Path:
        """Write it as JSON, beside and renamed; `Sweep.load` reads it."""
        return files.save(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote. Raises `LabError` for a file that is none of ours."""
        return files.load(path, cls.from_json, what="sweep", writer="Sweep.save")

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The sweep that `save` wrote as `content`. Raises KeyError or TypeError for anything else."""
        return cls(**{**content, "runs": [_run(run) for run in content["runs"]]})


def _run(content: Mapping[str, Any]) -> Run:
    """A level from JSON; files written before there was another load than a closed one call its concurrency "level"."""
    fields = {"concurrency" if name == "level" else name: value for name, value in content.items()}
    return Run(**fields | {name: Latency(**fields[name]) for name in ("ttft", "tpot", "itl")})


def known(runs: Sequence[Run]) -> str:
    """A warning for a caption where the prefix cache had a share of the prompts; "" where it had none to speak of."""
    most = max((run.cached or 0.0 for run in runs), default=0.0)
    if most < WORTH_SAYING:
        return ""
    return f"; the prefix cache knew up to {most:.0%} of the prompts (they had been sent before): measure anew with another seed"


def percentiles(latencies: Sequence[Latency], *names: str) -> list[list[float]]:
    """Milliseconds by percentile ("median", "p95", "p99"), each a list over the levels."""
    return [[getattr(latency, name) for latency in latencies] for name in names]


def span(values: Sequence[int]) -> str:
    """ "16", or "16 to 256"."""
    return str(values[0]) if len(set(values)) == 1 else f"{min(values)} to {max(values)}"


def sweep_figure(sweep: Sweep) -> Picture:
    """Three panels against concurrency: output tokens per second, TTFT and TPOT (median, with the band up to p95)."""
    with drawing:
        figure = new_figure(11.0, 3.9)
        panels = figure.subplots(1, 3)
        levels = [run.concurrency for run in sweep.runs]
        line(panels[0], levels, [run.output_tokens_per_s for run in sweep.runs], COLOURS[0])
        title(panels[0], "throughput: output tokens per second")
        ttft, tpot = ([getattr(run, name) for run in sweep.runs] for name in ("ttft", "tpot"))
        latency_panel(panels[1], levels, *percentiles(ttft, "median", "p95"), colour=COLOURS[1], title="TTFT: ms to the first token")
        latency_panel(panels[2], levels, *percentiles(tpot, "median", "p95"), colour=COLOURS[2], title="TPOT: ms for each further token")
        for axes in panels:
            concurrency_axis(axes, levels)
            axes.set_ylim(bottom=0)
            _queue_line(axes, sweep)
        caption(figure, sweep.caption(), 170)
        return finish(figure, sweep.caption())


def _queue_line(axes: Axes, sweep: Sweep) -> None:
    """Where the server's own limit lies, if a level went beyond it."""
    if sweep.limit and any(run.concurrency > sweep.limit for run in sweep.runs):
        axes.axvline(sweep.limit, color=QUIET, linewidth=1, linestyle="--")
        text = f"--max-num-seqs {sweep.limit}: more wait"
        axes.annotate(
            text, (sweep.limit, 0), xycoords=("data", "axes fraction"), xytext=(3, 4), rotation=90, **small_text("left", "bottom")
        )
