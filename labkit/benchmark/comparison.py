"""Two engines on the same load, one after the other: what was measured of each, side by side.

    vllm = labkit.measure(server, levels)      while vLLM runs; stop it, start SGLang
    sglang = labkit.measure(server, levels)
    labkit.compare(vllm, sglang)               table and figure

Covers: start time by stage, memory held, throughput and latency of one closed load (`sweeps`). Does not cover: answer quality,
other loads, other flags: the result holds for this load, these versions and this machine, which is why the caption names them.
Used by notebooks 04 and 06.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..common import files, tables
from ..common.amounts import GIB
from ..common.errors import SettingError
from ..common.figures import COLOURS, Picture, caption, drawing, finish, legend, new_figure, small_text, title, wrapped
from . import results, sweeps
from .panels import concurrency_axis, line, percentile_lines
from .results import Latency, Run, Sweep, percentiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..engines.endpoint import StartedEndpoint


PERCENTILES = ("median", "p95", "p99")


@dataclass(frozen=True)
class Measured:
    """One engine: `start_seconds` to the first token, `stages` of that start, `memory_bytes` it held after the load.

    Memory is what the GPUs hold more than before its start, None where it shares one with another server; without a GPU the resident
    memory of its processes, in which pages that they share count once for each. `kv_tokens` is what its own log says.
    """

    sweep: Sweep
    start_seconds: float
    stages: tuple[tuple[str, float], ...]
    memory_bytes: int | None
    kv_tokens: int | None

    @property
    def engine(self) -> str:
        return self.sweep.engine

    @property
    def seed(self) -> int | None:
        """What its prompts were made from: `measure` with it sends the same ones to another server."""
        return self.sweep.seed

    def save(self, path: str | Path) -> Path:
        """Write it as JSON, beside and renamed; `Measured.load` reads it."""
        return files.save(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote. Raises `LabError` for a file that is none of ours."""
        return files.load(path, cls.from_json, what="measurement", writer="Measured.save")

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The measurement that `save` wrote as `content`. Raises KeyError or TypeError for anything else."""
        stages = tuple((str(name), float(seconds)) for name, seconds in content["stages"])
        return cls(**{**content, "sweep": Sweep.from_json(content["sweep"]), "stages": stages})


def measure(server: StartedEndpoint, levels: Sequence[int], **options: Any) -> Measured:
    """Load `server` as `sweep` does, which takes `options`, and note how it started and what it holds.

    Also saved beside the sweep's own file. Raises what `sweep` raises.
    """
    sweep = sweeps.sweep(server, levels, **options)
    measured = Measured(sweep, round(server.ready_seconds, 1), tuple(server.stages), server.memory_held, server.kv_cache_tokens)
    measured.save(Path(sweep.file).with_suffix(".measured.json"))
    return measured


def compare(*measured: Measured) -> Comparison:
    """Set them side by side. Raises `SettingError` unless all had the same load: levels, lengths, number of requests."""
    loads = {_load(one.sweep) for one in measured}
    if len(measured) < 2 or len(loads) != 1:
        raise SettingError(
            f"{len(measured)} measurements with {len(loads)} different loads.",
            "Compare two or more that were measured with the same levels, input_len, output_len and requests.",
        )
    return Comparison(measured)


TOTALS: tuple[tuple[str, Callable[[Measured], str]], ...] = (
    ("version", lambda one: one.sweep.version),
    ("start, s", lambda one: f"{one.start_seconds:.0f}"),
    ("memory held, GiB", lambda one: "shared" if one.memory_bytes is None else f"{one.memory_bytes / GIB:.1f}"),
    ("KV cache, tokens", lambda one: "-" if one.kv_tokens is None else f"{one.kv_tokens:,}"),
    ("prefix cache", lambda one: {True: "on", False: "off", None: "-"}[one.sweep.prefix_caching]),
)


def _percentiles(latency: Latency, digits: int) -> str:
    return " / ".join(f"{value:,.{digits}f}" for value in (latency.median, latency.p95, latency.p99))


LEVEL_COLUMNS: tuple[tuple[str, Callable[[Run], str]], ...] = (
    ("failed", lambda run: str(run.failed)),
    ("output tokens/s", lambda run: f"{run.output_tokens_per_s:,.0f}"),
    ("TTFT p50 / p95 / p99, ms", lambda run: _percentiles(run.ttft, 0)),
    ("TPOT p50 / p95 / p99, ms", lambda run: _percentiles(run.tpot, 1)),
)


@dataclass(frozen=True, repr=False)
class Comparison:
    """Shows itself as two tables: what each engine took, and how it served at each concurrency."""

    measured: tuple[Measured, ...]

    def caption(self) -> str:
        """What the numbers hold for: without it they say nothing."""
        sweep = self.measured[0].sweep
        first, levels = sweep.runs[0], [run.concurrency for run in sweep.runs]
        versions = " and ".join(dict.fromkeys(f"{one.engine} {one.sweep.version}" for one in self.measured))
        models = " and ".join(dict.fromkeys(one.sweep.model for one in self.measured))
        return (
            f"{versions}, {models}, {sweep.machine}, one after the other; "
            f"n = {results.span([run.requests for run in sweep.runs])} requests per level, "
            f"{first.lengths()}, concurrency {', '.join(map(str, levels))}; the same client "
            f"({sweep.client}), {_prompts([one.sweep for one in self.measured])}, one run. Holds for this load and these versions only"
            f"{results.known([run for one in self.measured for run in one.sweep.runs])}."
        )

    def names(self) -> list[str]:
        """What tells them apart: the engines, or of one engine the models."""
        engines = [one.engine for one in self.measured]
        return engines if len(set(engines)) == len(engines) else [one.sweep.model for one in self.measured]

    def ratio(self, level: int) -> float:
        """Output tokens/s at concurrency `level`: the last engine's divided by the first one's."""
        first, last = (next(run for run in one.sweep.runs if run.concurrency == level) for one in (self.measured[0], self.measured[-1]))
        return last.output_tokens_per_s / first.output_tokens_per_s

    def figure(self) -> Picture:
        """Throughput, TTFT, TPOT and start, the engines beside each other (`comparison_figure`)."""
        return comparison_figure(self)

    def tables(self) -> list[list[list[str]]]:
        """Both tables as rows of text, headings first."""
        heading = "engine" if len({one.engine for one in self.measured}) == len(self.measured) else "model"
        totals = [[heading, *(name for name, _ in TOTALS)]]
        totals += [[name, *(show(one) for _, show in TOTALS)] for name, one in zip(self.names(), self.measured, strict=True)]
        levels = [["concurrency", heading, *(name for name, _ in LEVEL_COLUMNS)]]
        for runs in zip(*(one.sweep.runs for one in self.measured), strict=True):
            named = zip(self.names(), runs, strict=True)
            levels += [[str(run.concurrency), name, *(show(run) for _, show in LEVEL_COLUMNS)] for name, run in named]
        return [totals, levels]

    def __str__(self) -> str:
        return "\n\n".join([*(tables.plain(table) for table in self.tables()), self.caption()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        totals, levels = self.tables()
        return tables.as_html(totals) + tables.as_html(levels, self.caption())


def _load(sweep: Sweep) -> tuple[tuple[int, int, int, int, float], ...]:
    return tuple((run.concurrency, run.requests, run.input_len, run.output_len, run.spread) for run in sweep.runs)


def _prompts(sweeps: Sequence[Sweep]) -> str:
    """Whether all had the same prompts."""
    alike = len({tuple(run.seed for run in sweep.runs) for sweep in sweeps}) == 1
    return "fresh random prompts per level, the same for both" if alike else "fresh random prompts per level and engine"


def comparison_figure(comparison: Comparison) -> Picture:
    """Engines beside each other: throughput, TTFT and TPOT against concurrency, and each start, stage by stage.

    Latencies: the line is the median, the dots are p95 and p99, on a logarithmic axis: two engines may differ tenfold.
    """
    with drawing:
        figure = new_figure(12.0, 7.0)
        upper, lower = figure.subplots(2, 2)
        for index, one in enumerate(comparison.measured):
            runs, colour = one.sweep.runs, COLOURS[index]
            levels = [run.concurrency for run in runs]
            line(upper[0], levels, [run.output_tokens_per_s for run in runs], colour)
            percentile_lines(upper[1], levels, *percentiles([run.ttft for run in runs], *PERCENTILES), colour=colour)
            percentile_lines(lower[0], levels, *percentiles([run.tpot for run in runs], *PERCENTILES), colour=colour)
        upper[0].set_ylim(bottom=0)
        legend(upper[0], labels=comparison.names(), fontsize=9)
        for axes, text in (
            (upper[0], "throughput: output tokens per second"),
            (upper[1], "TTFT: ms to the first token (line: median, dots: p95, p99)"),
            (lower[0], "TPOT: ms for each further token (line: median, dots: p95, p99)"),
        ):
            title(axes, text)
            concurrency_axis(axes, [run.concurrency for run in comparison.measured[0].sweep.runs])
        _draw_starts(lower[1], comparison)
        caption(figure, comparison.caption(), 190)
        return finish(figure, comparison.caption())


def _draw_starts(axes: Axes, comparison: Comparison) -> None:
    """One bar for each engine: its stages, and behind it the whole and the memory it held."""
    longest = max(one.start_seconds for one in comparison.measured)
    for row, one in enumerate(comparison.measured):
        left = 0.0
        for number, (name, seconds) in enumerate(one.stages):
            axes.barh(row, seconds, left=left, height=0.42, color=COLOURS[row], alpha=0.85 if number % 2 == 0 else 0.5)
            if seconds > 0.12 * longest:
                axes.annotate(wrapped(name, 16), (left + seconds / 2, row), ha="center", va="center", fontsize=7, color="black")
            left += seconds
        held = "a GPU that it shares" if one.memory_bytes is None else f"{one.memory_bytes / GIB:.1f} GiB"
        whole = f"{one.start_seconds:.0f} s, then {held}"
        axes.annotate(whole, (0, row + 0.24), xytext=(2, 2), **small_text("left", "bottom"))
    axes.set_yticks(range(len(comparison.measured)), comparison.names())
    axes.set_ylim(-0.5, len(comparison.measured) - 0.3)
    axes.set_xlabel("seconds")
    title(axes, "start until the first token, and memory held")
