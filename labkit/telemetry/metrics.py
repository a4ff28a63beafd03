"""What a server counts about itself: GET /metrics, read into a small table.

Covers: the requests that run and wait, KV cache use, tokens, mean latencies from sum and count, prefix cache, preemptions;
the difference between two readings. Does not cover: percentiles (the histograms' buckets are too coarse for them;
`benchmark` measures them at the client), storing over time (that is Prometheus itself).
The names of an engine's metrics are data: `NAMES`. Checked against vLLM 0.26.0 and 0.32.0 and SGLang 0.5.19.
Used by notebooks 03 and 04.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..chat import http
from ..common import tables
from ..common.errors import LabError, NotRunning

if TYPE_CHECKING:
    from ..engines.endpoint import Endpoint


NAMES: dict[str, dict[str, str]] = {
    "vllm": {
        "running": "vllm:num_requests_running",
        "waiting": "vllm:num_requests_waiting",
        "kv_cache": "vllm:kv_cache_usage_perc",
        "finished": "vllm:request_success_total",
        "prompt_tokens": "vllm:prompt_tokens_total",
        "generated_tokens": "vllm:generation_tokens_total",
        "ttft": "vllm:time_to_first_token_seconds",
        "queue": "vllm:request_queue_time_seconds",
        "itl": "vllm:inter_token_latency_seconds",
        "e2e": "vllm:e2e_request_latency_seconds",
        "prefix_queries": "vllm:prefix_cache_queries_total",
        "prefix_hits": "vllm:prefix_cache_hits_total",
        "preemptions": "vllm:num_preemptions_total",
        "cache_config": "vllm:cache_config_info",
    },
    "sglang": {
        "running": "sglang:num_running_reqs",
        "waiting": "sglang:num_queue_reqs",
        "kv_cache": "sglang:token_usage",
        "finished": "sglang:num_requests_total",
        "prompt_tokens": "sglang:prompt_tokens_total",
        "generated_tokens": "sglang:generation_tokens_total",
        "ttft": "sglang:time_to_first_token_seconds",
        "queue": "sglang:queue_time_seconds",
        "itl": "sglang:inter_token_latency_seconds",
        "e2e": "sglang:e2e_request_latency_seconds",
        "prefix_queries": "sglang:prompt_tokens_total",
        "prefix_hits": "sglang:cached_tokens_total",
        "preemptions": "sglang:num_retracted_requests_total",
    },
}
"""Engine -> what the table calls it -> what the engine calls it. Latencies are histograms: NAME_sum and NAME_count."""

GAUGES = ("running", "waiting", "kv_cache")
COUNTERS = ("finished", "prompt_tokens", "generated_tokens", "prefix_queries", "prefix_hits", "preemptions")
LATENCIES = ("ttft", "queue", "itl", "e2e")
SHARES = ("kv_cache",)
"""Gauges that are a share: of several engine processes (data parallel) the fullest counts, not their sum."""


@dataclass(frozen=True, repr=False)
class Metrics:
    """One reading. `values` holds gauges, counters, and NAME_sum (seconds) and NAME_count for latencies.

    What the engine does not report is missing there, and None or "-" everywhere else. `cache` is the engine's own account
    of its KV cache (block size, dtype, prefix caching), as text.
    """

    engine: str
    values: dict[str, float]
    cache: dict[str, str] = field(default_factory=dict)
    interval: bool = False

    def __getitem__(self, name: str) -> float | None:
        return self.values.get(name)

    def mean(self, name: str) -> float | None:
        """Mean seconds of "ttft", "queue", "itl" or "e2e" over the requests (for itl: the tokens) counted; None if none was."""
        count = self.values.get(f"{name}_count")
        return self.values[f"{name}_sum"] / count if count else None

    @property
    def prefix_hit_share(self) -> float | None:
        """Share of the prompt tokens asked of the prefix cache that were found there, 0 to 1; None if none was asked for."""
        queries = self.values.get("prefix_queries")
        return self.values.get("prefix_hits", 0.0) / queries if queries else None

    @property
    def prefix_caching(self) -> bool | None:
        """Whether the server keeps prefixes; None if it does not say."""
        word = self.cache.get("enable_prefix_caching")
        return None if word is None else word == "True"

    def since(self, earlier: Metrics) -> Metrics:
        """What was counted between `earlier` and now. Gauges stay as they are now."""
        values = {name: value if name in GAUGES else value - earlier.values.get(name, 0.0) for name, value in self.values.items()}
        return Metrics(self.engine, values, self.cache, interval=True)

    def rows(self) -> list[tuple[str, str]]:
        """The table as text: (what, how much)."""
        return [
            ("requests running now", _count(self["running"])),
            ("requests waiting now", _count(self["waiting"])),
            ("KV cache in use now", _percent(self["kv_cache"])),
            ("requests finished", _count(self["finished"])),
            ("prompt tokens", _count(self["prompt_tokens"])),
            ("generated tokens", _count(self["generated_tokens"])),
            ("time to first token (TTFT), mean", _milliseconds(self.mean("ttft"))),
            ("of it waiting in the queue, mean", _milliseconds(self.mean("queue"))),
            ("inter-token latency (ITL), mean", _milliseconds(self.mean("itl"))),
            ("whole request, mean", _milliseconds(self.mean("e2e"))),
            ("prompt tokens found in the prefix cache", _percent(self.prefix_hit_share)),
            ("preemptions (KV cache was full)", _count(self["preemptions"])),
        ]

    def __str__(self) -> str:
        return f"{self._caption()}\n{tables.plain(self.rows())}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(f'<tr><td style="text-align:left">{tables.escaped(label)}</td><td>{value}</td></tr>' for label, value in self.rows())
        return f"<table><caption>{self._caption()}</caption>{rows}</table>"

    def _caption(self) -> str:
        return f"{self.engine} /metrics, " + ("between two readings" if self.interval else "since the server started")


def read_metrics(server: Endpoint, timeout: float = 10.0) -> Metrics:
    """Ask `server` for its metrics now. Raises `NotRunning` if it does not answer, `LabError` for an engine without names here."""
    if server.engine.name not in NAMES:
        raise LabError(f"labkit does not know the metrics of {server.engine.title}.", f"Read {server.url}/metrics yourself.")
    status, text = http.ask(server, "GET", "/metrics", seconds=timeout)
    if status != 200:
        raise NotRunning(f"{server.url}/metrics answers with HTTP {status}.", f"Its log says more: {server.log}.")
    return parse(str(text), server.engine.name)


def parse(text: str, engine: str) -> Metrics:
    """The metrics of `engine` in `text` (Prometheus exposition format), over all its processes."""
    from prometheus_client.parser import text_string_to_metric_families

    wanted: dict[str, list[str]] = {}
    for ours, real in _samples(engine).items():
        wanted.setdefault(real, []).append(ours)
    values: dict[str, float] = {}
    cache: dict[str, str] = {}
    for family in text_string_to_metric_families(text):
        named = [(sample, ours) for sample in family.samples for ours in wanted.get(sample.name, [])]
        for sample, ours in named:
            if ours == "cache_config":
                cache = dict(sample.labels)
            elif ours in SHARES:
                values[ours] = max(values.get(ours, 0.0), sample.value)
            else:
                values[ours] = values.get(ours, 0.0) + sample.value
    return Metrics(engine, values, cache)


def _samples(engine: str) -> dict[str, str]:
    """Our name -> the engine's sample: gauges and counters as they are, a histogram's sum and count."""
    names = NAMES[engine]
    plain = {ours: names[ours] for ours in (*GAUGES, *COUNTERS, "cache_config") if ours in names}
    sums = {f"{ours}_{part}": f"{names[ours]}_{part}" for ours in LATENCIES if ours in names for part in ("sum", "count")}
    return plain | sums


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share * 100:.1f} %"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:,.1f} ms"
