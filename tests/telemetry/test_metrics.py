"""Metrics, from a page that a real vLLM 0.32.0 gave."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from stand_in import StandIn

from labkit.common.errors import LabError, NotRunning
from labkit.engines import ENGINES
from labkit.telemetry.metrics import NAMES, Metrics, parse, read_metrics

PAGE = (Path(__file__).parents[1] / "data" / "vllm-0.32.0-metrics.txt").read_text()


def test_a_real_page_is_understood() -> None:
    metrics = parse(PAGE, "vllm")
    assert metrics["finished"] == 84
    assert metrics["prompt_tokens"] == 5424 and metrics["generated_tokens"] == 1344
    assert metrics["running"] == 0 and metrics["waiting"] == 0 and metrics["preemptions"] == 0
    assert metrics.prefix_caching is True
    ttft, whole = metrics.mean("ttft"), metrics.mean("e2e")
    assert ttft is not None and whole is not None and 0 < ttft < whole < 1


def test_every_name_is_on_the_page() -> None:
    metrics = parse(PAGE, "vllm")
    histograms = {"ttft", "queue", "itl", "e2e"}
    expected = {name for name in NAMES["vllm"] if name not in histograms | {"cache_config"}}
    assert expected | {f"{name}_sum" for name in histograms} <= set(metrics.values)


def test_engine_processes_are_added_up_and_the_fullest_cache_counts() -> None:
    page = "\n".join(
        f'vllm:num_requests_running{{engine="{engine}"}} {running}\nvllm:kv_cache_usage_perc{{engine="{engine}"}} {share}'
        for engine, running, share in ((0, 3, 0.25), (1, 4, 0.75))
    )
    metrics = parse(page + "\n", "vllm")
    assert metrics["running"] == 7 and metrics["kv_cache"] == 0.75


def test_what_is_missing_is_shown_as_missing() -> None:
    metrics = parse("", "vllm")
    assert metrics["running"] is None and metrics.mean("ttft") is None
    assert metrics.prefix_hit_share is None and metrics.prefix_caching is None
    assert set(value for _, value in metrics.rows()) == {"-"}


def test_since_counts_only_what_came_between() -> None:
    early = Metrics("vllm", {"finished": 10, "running": 1, "ttft_sum": 5.0, "ttft_count": 10})
    late = Metrics("vllm", {"finished": 14, "running": 3, "ttft_sum": 7.0, "ttft_count": 14})
    between = late.since(early)
    assert between["finished"] == 4 and between["running"] == 3 and between.mean("ttft") == 0.5
    assert "between two readings" in str(between)


def test_both_tables_say_the_same() -> None:
    metrics = parse(PAGE, "vllm")
    for label, value in metrics.rows():
        assert label in str(metrics) and value in str(metrics)
        assert label in metrics._repr_html_() and f"<td>{value}</td>" in metrics._repr_html_()


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(PAGE.encode())

    def log_message(self, *arguments: object) -> None:
        pass


def server(port: int, engine: str = "vllm") -> StandIn:
    return StandIn(port, ENGINES[engine])


def test_it_reads_over_http_and_past_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as here:
        Thread(target=here.serve_forever, daemon=True).start()
        assert read_metrics(server(here.server_port))["finished"] == 84
        here.shutdown()


def test_a_server_that_is_gone_is_named() -> None:
    with pytest.raises(NotRunning, match="127.0.0.1:9 does not answer"):
        read_metrics(server(9))


def test_an_engine_without_names_is_refused() -> None:
    with pytest.raises(LabError, match="Open-WebUI"):
        read_metrics(server(9, "open_webui"))
