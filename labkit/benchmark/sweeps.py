"""A concurrency sweep: the same load at rising concurrency, through vLLM's benchmark client, whichever engine serves.

Covers: `vllm bench serve` with random prompts, one result shape for every engine (`Run`), tables, JSON.
Does not cover: answer quality, traffic that arrives by the clock (this load is closed: each slot sends its next request when
its last one ended), comparing engines (`comparison`), drawing (`plots.sweep_figure`).

How it measures: random tokens, generation to the full length (--ignore-eos), a fresh seed for every level so that the prefix
cache cannot serve one level with another's prompts, one warm-up that is not counted. Where all lengths are alike, requests that
began together end together: the slots march in step at first, lose it later, and a rate can depend on when. `spread` mixes the
lengths, as users do (docs/measurements.md: how well both repeat). TTFT includes waiting in the server's queue. TPOT is
(last token - first token) / (tokens - 1) of a request, ITL every gap by itself. SGLang's own client computes some figures
differently; one client for both makes them comparable.
Used by notebooks 03 and 04.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..chat import served
from ..common import logs
from ..common.errors import LabError, NotRunning, SettingError
from ..common.progress import Progress
from ..common.settings import settings
from ..engines.flags import batch_limit
from ..runtimes import environments
from ..telemetry.metrics import NAMES, Metrics, read_metrics
from ..workers import launch
from .load import Load, request_counts
from .results import Run, Sweep, known, latency_of

if TYPE_CHECKING:
    from ..engines.endpoint import Endpoint


CLIENT = "vllm"
"""The engine whose benchmark client sends the load; its environment is needed whichever engine is measured."""
DRIVER = launch.SCRIPTS / "bench_worker.py"
"""The script that the client's python runs."""

KEY_VARIABLE = "OPENAI_API_KEY"
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
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
    asked = served.resolve_model_name(server, model) if model else server.model
    return _Sweeping(server, asked, load, on_level).run()


class _Sweeping:
    """One sweep under way: the client as a child process, the server's metrics beside it."""

    def __init__(self, server: Endpoint, model: str, load: Load, on_level: Callable[[str], None] | None) -> None:
        self.server, self.load = server, load
        self.seeds = load.seeds()
        self.on_level = on_level or (lambda text: None)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        self.log = settings().logs / "bench" / f"{stamp}.err.log"
        self.file = self.log.with_name(f"{stamp}-{server.name}.json")
        first = read_metrics(server)
        self.same = server.engine.name == CLIENT
        self.python = server.command[0] if self.same else str(environments.python(CLIENT))
        self.sweep = Sweep(
            engine=server.engine.title,
            version="" if self.same else environments.install(server.engine.runtime).versions[server.engine.runtime],
            model=model,
            machine=machine(server),
            prefix_caching=_keeps_prefixes(server, first),
            started=stamp,
            limit=batch_limit(server.command),
            file=str(self.file),
            seed=load.seed,
        )
        self.now, self.done = -1, 0
        self.peaks: list[Metrics] = []
        self.before = first

    def run(self) -> Sweep:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with Progress("Benchmark", total=sum(self.load.counts), unit="requests") as bar:
            for event in self._events(bar):
                if event["event"] == "imported":
                    self.sweep.client = f"vllm bench serve {event['version']}"
                    self.sweep.version = self.sweep.version or event["version"]
                elif event["event"] == "begin":
                    self._begin(event["index"] - 1)
                else:
                    self._end(event["index"] - 1, event["result"], bar)
        return self.sweep

    def _begin(self, level: int) -> None:
        self.now, self.peaks = level, []
        if level >= 0:
            self.before = read_metrics(self.server)
            self.on_level(f"concurrency {self.load.levels[level]}")

    def _end(self, level: int, result: Mapping[str, Any], bar: Progress) -> None:
        if level < 0:
            return
        run = self._run(level, result)
        self.sweep.runs.append(run)
        self.sweep.save(self.file)
        self.done += run.requests
        bar.line(
            f"concurrency {run.concurrency:4}: {run.output_tokens_per_s:8,.0f} output tokens/s, "
            f"TTFT {run.ttft.median:7,.0f} ms, TPOT {run.tpot.median:6.1f} ms, {run.failed} failed"
        )
        if words := known([run]):
            bar.line(words.removeprefix("; "))
        bar.update(self.done)

    def _run(self, level: int, result: Mapping[str, Any]) -> Run:
        now = self._read()
        return Run(
            concurrency=self.load.levels[level],
            requests=self.load.counts[level],
            input_len=self.load.input_len,
            output_len=self.load.output_len,
            spread=self.load.spread,
            cached=now.since(self.before).prefix_hit_share if now else None,
            duration=result["duration"],
            request_rate=result["request_throughput"],
            output_tokens_per_s=result["output_throughput"],
            total_tokens_per_s=result["total_token_throughput"],
            ttft=latency_of(result, "ttft"),
            tpot=latency_of(result, "tpot"),
            itl=latency_of(result, "itl"),
            failed=self.load.counts[level] - result["completed"],
            seed=self.seeds[level + 1],
            running=self._peak("running"),
            waiting=self._peak("waiting"),
        )

    def _peak(self, name: str) -> int | None:
        values = [value for metrics in self.peaks if (value := metrics[name]) is not None]
        return int(max(values)) if values else None

    def _events(self, bar: Progress) -> Iterator[dict[str, Any]]:
        """What the client says, as it says it; between two events the server's metrics are read."""
        lines: queue.Queue[str | None] = queue.Queue()
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [self.python, str(DRIVER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environment(),
            )
        threading.Thread(target=_pass_on, args=(process, lines), daemon=True).start()
        try:
            process.stdin.write(json.dumps([self._words(level) for level in range(-1, len(self.load.levels))]) + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            while (line := self._next(lines, bar)) is not None:
                yield json.loads(line)
        except BrokenPipeError:
            pass  # it ended before it read its orders: its log says why
        finally:
            _end(process)
        if len(self.sweep.runs) < len(self.load.levels):
            self._fail(process.returncode)

    def _next(self, lines: queue.Queue[str | None], bar: Progress) -> str | None:
        while True:
            try:
                return lines.get(timeout=POLL_SECONDS)
            except queue.Empty:
                self._look(bar)

    def _look(self, bar: Progress) -> None:
        if self.now < 0:
            bar.update(0, "warming up" if self.sweep.client else "importing the benchmark client (about 20 s)")
            return
        metrics = self._read()
        if metrics is None:
            return
        self.peaks.append(metrics)
        here = min(metrics.since(self.before)["finished"] or 0.0, self.load.counts[self.now])
        bar.update(self.done + here, f"concurrency {self.load.levels[self.now]}")

    def _read(self) -> Metrics | None:
        """The server's metrics; None if it is too busy to answer, or gone: the client will tell."""
        try:
            return read_metrics(self.server)
        except NotRunning:
            return None

    def _words(self, level: int) -> list[str]:
        """The arguments of one level; -1 is the warm-up: every slot of the highest level once, few tokens."""
        warm = level < 0
        concurrency = max(self.load.levels) if warm else self.load.levels[level]
        output_len = min(16, self.load.output_len) if warm else self.load.output_len
        return [
            *("--backend", "openai", "--base-url", self.server.url, "--endpoint", "/v1/completions"),
            *("--model", self.sweep.model, "--tokenizer", self.server.source, "--dataset-name", "random"),
            *("--random-input-len", str(self.load.input_len), "--random-output-len", str(output_len)),
            *("--random-range-ratio", str(0.0 if warm else self.load.spread)),
            *("--num-prompts", str(concurrency if warm else self.load.counts[level]), "--max-concurrency", str(concurrency)),
            *("--seed", str(self.seeds[level + 1]), "--ignore-eos", "--temperature", "0", "--disable-tqdm"),
            *("--percentile-metrics", "ttft,tpot,itl", "--metric-percentiles", "95,99"),
        ]

    def _environment(self) -> dict[str, str]:
        """This process's own with the key, without proxies (the server is here), without asking a hub for a local folder."""
        words = {name: value for name, value in os.environ.items() if name.lower() not in PROXIES}
        words |= settings().cache_environment() | {"VLLM_NO_USAGE_STATS": "1", KEY_VARIABLE: self.server.key}
        if Path(self.server.source).is_dir():
            words["HF_HUB_OFFLINE"] = "1"
        elif f"{self.server.engine.hub_variable}=" in self.server.shown:
            words["VLLM_USE_MODELSCOPE"] = "True"
        return words

    def _fail(self, code: int) -> None:
        saved = f" The {len(self.sweep.runs)} levels before it are in {self.file}." if self.sweep.runs else ""
        if not self.server.answers():
            raise NotRunning(f"{self.server.engine.title} stopped answering during the benchmark.{saved}", f"Its log: {self.server.log}.")
        line = logs.explain(self.log.read_text(errors="replace"), ()).line
        raise LabError(f"The benchmark client ended with exit code {code}: {line}{saved}", f"The whole log: {self.log}.")


def _keeps_prefixes(server: Endpoint, metrics: Metrics) -> bool | None:
    """Whether the prefix cache is on: as the server's metrics say, else as it was started."""
    if server.engine.name == CLIENT or not server.engine.no_prefixes:
        return metrics.prefix_caching
    return server.engine.no_prefixes not in server.command


def machine(server: Endpoint) -> str:
    """What the server runs on, in a few words: "1 x NVIDIA H200" or "CPU (2 cores)"."""
    from ..machine.gpu import devices

    found = devices() if server.device == "gpu" else []
    return f"{len(found)} x {found[0].name}" if found else f"CPU ({os.cpu_count()} cores)"


def _pass_on(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    for line in process.stdout:  # type: ignore[union-attr]
        lines.put(line)
    lines.put(None)


def _end(process: subprocess.Popen[str]) -> None:
    """Let it end by itself, which it does when its orders are done or its input closes; else end it."""
    process.stdin.close()  # type: ignore[union-attr]
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
