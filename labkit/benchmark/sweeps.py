"""A concurrency sweep: the same load at rising concurrency, through vLLM's benchmark client, whichever engine serves.

Covers: `vllm bench serve` with random prompts, one result shape for every engine (`Run`), tables, JSON.
Does not cover: answer quality, traffic that arrives by the clock (this load is closed: each slot sends its next request when
its last one ended), comparing engines (`comparison`), what a result shows (`results`).

How it measures: random tokens, generation to the full length (--ignore-eos), a fresh seed for every level so that the prefix
cache cannot serve one level with another's prompts, one warm-up that is not counted. Where all lengths are alike, requests that
began together end together: the slots march in step at first, lose it later, and a rate can depend on when. `spread` mixes the
lengths, as users do (docs/measurements.md: how well both repeat). TTFT includes waiting in the server's queue. TPOT is
(last token - first token) / (tokens - 1) of a request, ITL every gap by itself. SGLang's own client computes some figures
differently; one client for both makes them comparable.
Used by notebooks 03 and 04.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..chat import served
from ..common.errors import LabError, NotRunning, SettingError
from ..common.progress import Progress
from ..common.settings import settings
from ..engines.flags import batch_limit
from ..machine import gpu
from ..runtimes import environments
from ..telemetry.metrics import NAMES, Metrics, read_metrics
from ..workers import launch
from ..workers.bench_job import BenchRequest, LevelResult
from .load import Load, request_counts
from .results import Latency, Run, Sweep, known

if TYPE_CHECKING:
    from ..engines.endpoint import Endpoint


CLIENT = "vllm"
"""The engine whose benchmark client sends the load; its environment is needed whichever engine is measured."""
SCRIPT = launch.SCRIPTS / "bench_worker.py"
KEY_VARIABLE = "OPENAI_API_KEY"
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
WARM_UP = -1
"""The number of the warm-up, before level 0."""
POLL_SECONDS = 0.25


def sweep(
    server: Endpoint,
    levels: Sequence[int] = (1, 2, 4, 8, 16),
    *,
    input_len: int = 512,
    output_len: int = 128,
    requests: int | Sequence[int] | None = None,
    spread: float = 0.0,
    seed: int | None = None,
    model: str | None = None,
    on_level: Callable[[str], None] | None = None,
) -> Sweep:
    """Load `server` with each concurrency of `levels`, in order, and return what was measured; also saved as JSON (`.file`).

    `requests` per level, one number for all or one for each: default four per slot and at least 16. `spread` draws each length
    evenly from input_len * (1 - spread) to input_len * (1 + spread), and so the output; 0 leaves all alike. The same `seed` sends the
    same prompts to another server; on one server leave it out, or its prefix cache knows them. `model` is an adapter's name, by
    default the served model is loaded. `on_level` is told of every level as it begins (a view's `mark`). About 20 s go to
    importing the client, once.

    Raises, before anything is sent, `SettingError` for levels or lengths that cannot be and for a name that is not served,
    `NotRunning`; then `LabError` with the client's last meaningful line if it fails. Levels that had ended are saved then, and
    the error says where.
    """
    start = secrets.randbelow(2**31) if seed is None else seed
    load = Load(list(levels), input_len, output_len, request_counts(levels, requests), spread, start)
    load.require_sensible()
    if server.engine.name not in NAMES:
        raise SettingError(f"{server.engine.title} serves no model.", f"Load one of: {', '.join(NAMES)}.")
    if not server.answers():
        raise NotRunning(f"{server.url} does not answer.", "./lab ps shows what runs; ./lab logs vllm says why it ended.")
    name = served.resolve_model_name(server, model) if model else server.model
    return _Sweeping(server, name, load, on_level).run()


class _Sweeping:
    """One sweep under way: the client as a worker, the server's metrics beside it."""

    bar: Progress
    """The launcher gives it before the first event."""

    def __init__(self, server: Endpoint, model: str, load: Load, on_level: Callable[[str], None] | None) -> None:
        self.server, self.load = server, load
        self.seeds = load.seeds()
        self.on_level = on_level or (lambda text: None)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        self.file = settings().logs / "bench" / f"{stamp}-{server.name}.json"
        self.before = read_metrics(server)
        same = server.engine.name == CLIENT
        self.python = Path(server.command[0]) if same else environments.python(CLIENT)
        self.sweep = Sweep(
            engine=server.engine.title,
            version="" if same else environments.install(server.engine.runtime).versions[server.engine.runtime],
            model=model,
            machine=machine(server),
            prefix_caching=_keeps_prefixes(server, self.before),
            started=stamp,
            limit=batch_limit(server.command),
            file=str(self.file),
            seed=load.seed,
        )
        self.now, self.done = WARM_UP, 0
        self.peaks: list[Metrics] = []

    def run(self) -> Sweep:
        launch.run(
            SCRIPT,
            asdict(BenchRequest([self._argv(level) for level in range(WARM_UP, len(self.load.levels))])),
            title="Benchmark",
            total=sum(self.load.counts),
            unit="requests",
            python=self.python,
            environment=self._environment(),
            on_event=self._take,
            on_tick=self._look,
            tick_seconds=POLL_SECONDS,
            on_failure=self._failure,
        )
        return self.sweep

    def _take(self, event: launch.Event) -> None:
        if event["event"] == "imported":
            self.sweep.client = f"vllm bench serve {event['version']}"
            self.sweep.version = self.sweep.version or event["version"]
            return
        level = event["index"] + WARM_UP
        if event["event"] == "begin":
            self._begin(level)
        elif level != WARM_UP:
            self._end(level, LevelResult(**event["result"]))

    def _begin(self, level: int) -> None:
        self.now, self.peaks = level, []
        if level != WARM_UP:
            self.before = read_metrics(self.server)
            self.on_level(f"concurrency {self.load.levels[level]}")

    def _end(self, level: int, result: LevelResult) -> None:
        run = self._run(level, result)
        self.sweep.runs.append(run)
        self.sweep.save(self.file)
        self.done += run.requests
        self.bar.line(
            f"concurrency {run.concurrency:4}: {run.output_tokens_per_s:8,.0f} output tokens/s, "
            f"TTFT {run.ttft.median:7,.0f} ms, TPOT {run.tpot.median:6.1f} ms, {run.failed} failed"
        )
        if warning := known([run]):
            self.bar.line(warning.removeprefix("; "))
        self.bar.update(self.done)

    def _run(self, level: int, result: LevelResult) -> Run:
        after = self._read()
        return Run(
            concurrency=self.load.levels[level],
            requests=self.load.counts[level],
            input_len=self.load.input_len,
            output_len=self.load.output_len,
            spread=self.load.spread,
            cached=after.since(self.before).prefix_hit_share if after else None,
            duration=result.duration,
            request_rate=result.request_throughput,
            output_tokens_per_s=result.output_throughput,
            total_tokens_per_s=result.total_token_throughput,
            ttft=Latency(**result.ttft),
            tpot=Latency(**result.tpot),
            itl=Latency(**result.itl),
            failed=self.load.counts[level] - result.completed,
            seed=self.seeds[level - WARM_UP],
            running=self._peak("running"),
            waiting=self._peak("waiting"),
        )

    def _peak(self, name: str) -> int | None:
        values = [value for metrics in self.peaks if (value := metrics[name]) is not None]
        return int(max(values)) if values else None

    def _look(self, bar: Progress) -> None:
        """Read the server's metrics between two events of the client, and move the bar by the requests that it finished."""
        self.bar = bar
        if self.now == WARM_UP:
            bar.update(0, "warming up" if self.sweep.client else "importing the benchmark client (about 20 s)")
        elif metrics := self._read():
            self.peaks.append(metrics)
            finished = min(metrics.since(self.before)["finished"] or 0.0, self.load.counts[self.now])
            bar.update(self.done + finished, f"concurrency {self.load.levels[self.now]}")

    def _read(self) -> Metrics | None:
        """The server's metrics; None if it is too busy to answer, or gone: the client will tell."""
        try:
            return read_metrics(self.server)
        except NotRunning:
            return None

    def _argv(self, level: int) -> list[str]:
        """The arguments of `vllm bench serve` for a level; the warm-up is every slot of the highest level once, few tokens."""
        warm = level == WARM_UP
        concurrency = max(self.load.levels) if warm else self.load.levels[level]
        output_len = min(16, self.load.output_len) if warm else self.load.output_len
        return [
            *("--backend", "openai", "--base-url", self.server.url, "--endpoint", "/v1/completions"),
            *("--model", self.sweep.model, "--tokenizer", self.server.source, "--dataset-name", "random"),
            *("--random-input-len", str(self.load.input_len), "--random-output-len", str(output_len)),
            *("--random-range-ratio", str(0.0 if warm else self.load.spread)),
            *("--num-prompts", str(concurrency if warm else self.load.counts[level]), "--max-concurrency", str(concurrency)),
            *("--seed", str(self.seeds[level - WARM_UP]), "--ignore-eos", "--temperature", "0", "--disable-tqdm"),
            *("--percentile-metrics", "ttft,tpot,itl", "--metric-percentiles", "95,99"),
        ]

    def _environment(self) -> dict[str, str | None]:
        """The key, no proxies (the server is here), and where the tokenizer comes from: a folder, or the hub that the server asked."""
        changes: dict[str, str | None] = {name: None for name in os.environ if name.lower() in PROXIES}
        changes |= {"VLLM_NO_USAGE_STATS": "1", KEY_VARIABLE: self.server.key}
        if not Path(self.server.source).is_dir():
            changes["HF_HUB_OFFLINE"] = os.environ.get("HF_HUB_OFFLINE")  # the launcher would say 1
            if f"{self.server.engine.hub_variable}=" in self.server.shown:
                changes["VLLM_USE_MODELSCOPE"] = "True"
        return changes

    def _failure(self, code: int, log: Path) -> LabError:
        saved = f" The {len(self.sweep.runs)} levels before it are in {self.file}." if self.sweep.runs else ""
        if not self.server.answers():
            cause = f"{self.server.engine.title} stopped answering during the benchmark.{saved}"
            return NotRunning(cause, f"Its log: {self.server.log}.")
        return LabError(f"The benchmark client ended with exit code {code}: {launch.own_words(log)}{saved}", f"The whole log: {log}.")


def _keeps_prefixes(server: Endpoint, metrics: Metrics) -> bool | None:
    """Whether the prefix cache is on: as the server's metrics say, else as it was started."""
    if server.engine.name == CLIENT or not server.engine.no_prefixes:
        return metrics.prefix_caching
    return server.engine.no_prefixes not in server.command


def machine(server: Endpoint) -> str:
    """What the server runs on, in a few words: "1 x NVIDIA H200" or "CPU (2 cores)"."""
    devices = [device for device in gpu.devices() if device.uuid in server.gpus]
    return f"{len(devices)} x {devices[0].name}" if devices else f"CPU ({os.cpu_count()} cores)"
