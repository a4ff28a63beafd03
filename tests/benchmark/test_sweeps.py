"""The sweep with its real worker script, a stand-in for vLLM's benchmark client, and a loopback server with /metrics.

The real client runs against a real vLLM in notebook 03, which is a test too (`./lab test notebooks`).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from stand_in import StandIn

from labkit.benchmark import sweeps
from labkit.benchmark.results import Latency, Sweep
from labkit.benchmark.sweeps import sweep
from labkit.common.errors import LabError, NotRunning, SettingError
from labkit.common.progress import Progress
from labkit.engines import ENGINES, flags
from labkit.telemetry.metrics import Metrics as Reading
from labkit.workers import launch

SERVE = """
import json, os, sys, time

def add_cli_args(parser):
    for name in ("backend", "base-url", "endpoint", "model", "tokenizer", "dataset-name", "percentile-metrics", "metric-percentiles"):
        parser.add_argument("--" + name, required=True)
    for name in ("random-input-len", "random-output-len", "num-prompts", "max-concurrency", "seed", "temperature"):
        parser.add_argument("--" + name, type=int, required=True)
    parser.add_argument("--random-range-ratio", type=float, required=True)
    parser.add_argument("--ignore-eos", action="store_true")
    parser.add_argument("--disable-tqdm", action="store_true")

def main(args):
    print("noise on standard output")
    with open(os.environ["SEEN"], "a") as seen:
        print(json.dumps(vars(args) | {"environment": dict(os.environ)}), file=seen)
    if args.max_concurrency == int(os.environ.get("FAIL_AT", 0)) and args.num_prompts > args.max_concurrency:
        raise RuntimeError("the client gave up")
    time.sleep(float(os.environ.get("LASTS", 0.02)))
    latency = {f"{kind}_{name}_ms": 10.0 * args.max_concurrency for name in ("ttft", "tpot", "itl") for kind in ("mean", "median", "p95", "p99")}
    failed = int(os.environ.get("LOST", 0))
    return latency | {"duration": 0.6, "completed": args.num_prompts - failed, "request_throughput": 5.0, "output_throughput": 50.0,
                      "total_token_throughput": 150.0, "input_lens": [1, 2, 3]}
"""
METRICS = """
vllm:num_requests_running{engine="0"} 2
vllm:num_requests_waiting{engine="0"} 6
vllm:request_success_total{engine="0"} 40
vllm:cache_config_info{enable_prefix_caching="True"} 1
"""
KEY = "sk-key-of-the-test"


class Metrics(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(METRICS.encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    package = tmp_path / "site" / "vllm"
    for folder in (package, package / "benchmarks", package / "utils"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").write_text('__version__ = "9.9"\n')
    (package / "benchmarks" / "serve.py").write_text(SERVE)
    (package / "utils" / "argparse_utils.py").write_text("from argparse import ArgumentParser as FlexibleArgumentParser\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with ThreadingHTTPServer(("127.0.0.1", 0), Metrics) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        yield StandIn(http.server_port, model="m", key=KEY, source=str(tmp_path), log=tmp_path / "log", command=[sys.executable])
        http.shutdown()


def calls(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]


def test_levels_run_in_order_after_a_warm_up(server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marks: list[str] = []
    found = sweep(server, (1, 8), input_len=64, output_len=32, on_level=marks.append)
    warm, first, second = calls(tmp_path)
    assert (warm["num_prompts"], warm["max_concurrency"], warm["random_output_len"]) == (8, 8, 16)
    assert [(one["max_concurrency"], one["num_prompts"]) for one in (first, second)] == [(1, 16), (8, 32)]
    assert first["random_input_len"] == 64 and first["random_output_len"] == 32 and first["ignore_eos"]
    assert [run.concurrency for run in found.runs] == [1, 8] and marks == ["concurrency 1", "concurrency 8"]
    assert found.runs[1].ttft == Latency(80.0, 80.0, 80.0, 80.0) and found.failed == 0
    assert found.version == "9.9" and found.prefix_caching is True
    assert "concurrency    8" in capsys.readouterr().out


def test_every_level_has_a_seed_of_its_own(server: Any, tmp_path: Path) -> None:
    found = sweep(server, (1, 2, 4), requests=4)
    seeds = [one["seed"] for one in calls(tmp_path)]
    assert len(set(seeds)) == 4
    assert [run.seed for run in found.runs] == seeds[1:]


def test_the_same_seed_sends_the_same_prompts_and_no_level_has_anothers(server: Any) -> None:
    first, again, other = (sweep(server, (1, 2), requests=2, seed=seed) for seed in (7, 7, None))
    assert [run.seed for run in first.runs] == [run.seed for run in again.runs] != [run.seed for run in other.runs]
    assert len({run.seed for run in first.runs}) == 2


def test_lengths_are_mixed_but_not_those_of_the_warm_up(server: Any, tmp_path: Path) -> None:
    found = sweep(server, (1,), input_len=1024, output_len=128, requests=2, spread=0.5)
    assert [one["random_range_ratio"] for one in calls(tmp_path)] == [0.0, 0.5]
    assert found.runs[0].lengths() == "512 to 1536 tokens in, 64 to 192 out" and found.runs[0].lengths() in found.caption()


def test_an_adapter_is_loaded_in_the_words_of_its_engine(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps.served, "resolve_model_name", lambda where, wanted: f"{where.model}:{wanted}")
    assert sweep(server, (1,), requests=2, model="one").model == "m:one"
    assert {one["model"] for one in calls(tmp_path)} == {"m:one"}


@pytest.mark.parametrize(("share", "told"), [(0.98, True), (0.07, False)])
def test_prompts_that_the_prefix_cache_knew_are_told(
    server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], share: float, told: bool
) -> None:
    numbers = count(1)

    def reading(where: Any) -> Reading:
        number = next(numbers)
        return Reading("vllm", {"prefix_queries": 100.0 * number, "prefix_hits": 100.0 * share * number})

    monkeypatch.setattr(sweeps, "read_metrics", reading)
    found = sweep(server, (1,), requests=2, seed=7)
    words = "the prefix cache knew up to 98% of the prompts"
    assert found.runs[0].cached == pytest.approx(share) and found.seed == 7
    assert (words in found.caption()) is told and (words in capsys.readouterr().out) is told


def test_a_level_is_kept_when_the_server_does_not_answer_after_it(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = count(1)

    def reading(where: Any) -> Reading:
        if next(asked) > 2:  # before the sweep, and as its level begins
            raise NotRunning("too busy", "wait")
        return Reading("vllm", {})

    monkeypatch.setattr(sweeps, "read_metrics", reading)
    found = sweep(server, (1,), requests=2)
    assert found.runs[0].cached is None and Sweep.load(found.file).runs == found.runs


def test_requests_may_be_said_for_each_level(server: Any) -> None:
    assert [run.requests for run in sweep(server, (1, 2), requests=(3, 5)).runs] == [3, 5]


def test_the_key_goes_through_the_environment_alone_and_no_proxy_is_left(server: Any, tmp_path: Path) -> None:
    sweep(server, (1,), requests=2)
    for one in (call.pop("environment") for call in calls(tmp_path)):
        assert one["OPENAI_API_KEY"] == KEY and one["VLLM_NO_USAGE_STATS"] == "1" and one["HF_HOME"]
        assert not [name for name in one if name.lower() in sweeps.PROXIES]
    assert not any(KEY in json.dumps(call | {"environment": None}) for call in calls(tmp_path))
    assert not any(KEY in path.read_text() for path in (tmp_path / "home").rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("source", "shown", "own", "offline", "modelscope"),
    [
        (".", "VLLM_USE_MODELSCOPE=True vllm serve", None, "1", None),
        ("nobody/nothing", "vllm serve", None, None, None),
        ("nobody/nothing", "vllm serve", "1", "1", None),
        ("nobody/nothing", "VLLM_USE_MODELSCOPE=True vllm serve", None, None, "True"),
    ],
    ids=["a folder", "a hub id", "a hub id, told to stay offline", "a hub id of ModelScope"],
)
def test_the_tokenizer_comes_from_where_the_server_has_its_model(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, shown: str, own: str | None, offline: str, modelscope: str
) -> None:
    for name, value in {"HF_HUB_OFFLINE": own, "VLLM_USE_MODELSCOPE": None}.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    server.source, server.shown = source, shown
    sweep(server, (1,), requests=2)
    for one in (call["environment"] for call in calls(tmp_path)):
        assert (one.get("HF_HUB_OFFLINE"), one.get("VLLM_USE_MODELSCOPE")) == (offline, modelscope)


def test_the_bar_counts_the_requests_of_all_levels(
    server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    states: list[tuple[float, str]] = []
    update = Progress.update
    monkeypatch.setattr(Progress, "update", lambda bar, done, note="": (states.append((done, note)), update(bar, done, note))[1])
    monkeypatch.setenv("LASTS", str(3 * sweeps.POLL_SECONDS))
    sweep(server, (1, 2), requests=(3, 5))
    assert [done for done, _ in states] == sorted(done for done, _ in states) and states[-1] == (8, "")
    notes = list(dict.fromkeys(note for _, note in states if note))
    assert notes == ["starting", "importing the benchmark client (about 20 s)", "warming up", "concurrency 1", "concurrency 2"]
    assert "Benchmark · 8 requests of 8 requests" in capsys.readouterr().err


def test_the_servers_own_queue_is_recorded(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASTS", str(4 * sweeps.POLL_SECONDS))
    (run,) = sweep(server, (8,), requests=8).runs
    assert (run.running, run.waiting) == (2, 6)


def test_lost_requests_are_counted(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOST", "3")
    assert sweep(server, (1, 2), requests=5).failed == 6


def test_the_result_is_saved_and_read_back(server: Any, tmp_path: Path) -> None:
    found = sweep(server, (1,), requests=2)
    assert Sweep.load(found.file) == found
    assert Path(found.file).is_relative_to(tmp_path / "home")


def test_a_client_that_fails_is_explained_and_earlier_levels_are_kept(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL_AT", "2")
    with pytest.raises(LabError, match="RuntimeError: the client gave up") as caught:
        sweep(server, (1, 2, 4))
    (saved,) = [path for path in (Path(os.environ["LABKIT_HOME"]) / "logs" / "bench").glob("*.json")]
    assert [run.concurrency for run in Sweep.load(saved).runs] == [1]
    assert str(saved) in str(caught.value) and "-bench_worker-" in caught.value.fix


def test_an_environment_without_the_engine_is_explained(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH")
    with pytest.raises(LabError, match="No module named 'vllm'"):
        sweep(server, (1,))


def test_a_server_that_died_meanwhile_is_named(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL_AT", "1")
    answers = iter([True])
    server.answers = lambda: next(answers, False)
    with pytest.raises(NotRunning, match="stopped answering"):
        sweep(server, (1,))


def test_the_client_ends_with_whoever_asked_for_it(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    processes: list[Any] = []
    popen = launch.subprocess.Popen

    def remember(*arguments: Any, **options: Any) -> Any:
        processes.append(popen(*arguments, **options))
        return processes[-1]

    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch.subprocess, "Popen", remember)
    with pytest.raises(KeyboardInterrupt):
        sweep(server, (1, 2, 4), on_level=interrupt)
    assert processes[0].poll() is not None


@pytest.mark.parametrize(
    ("levels", "options"),
    [((), {}), ((0, 1), {}), ((1,), {"input_len": 0}), ((1,), {"output_len": -1}), ((1,), {"requests": 0})]
    + [((1, 2), {"requests": (4, 0)}), ((1, 2), {"requests": (4, 4, 4)})]
    + [((1,), {"spread": 1.0}), ((1,), {"spread": -0.1}), ((1,), {"spread": 0.5, "output_len": 1})],
)
def test_what_cannot_be_measured_is_refused_first(server: Any, tmp_path: Path, levels: tuple[int, ...], options: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        sweep(server, levels, **options)
    assert not (tmp_path / "home").exists()


def test_an_engine_without_a_client_and_a_silent_server_are_refused(server: Any) -> None:
    server.alive = False
    with pytest.raises(NotRunning):
        sweep(server, (1,))
    server.engine = ENGINES["open_webui"]
    with pytest.raises(SettingError):
        sweep(server, (1,))


@pytest.mark.parametrize(
    ("command", "expected"),
    [(["serve", "m", "--max-num-seqs", "4"], 4), (["--max-num-seqs=64"], 64), (["serve", "m"], None), (["--max-num-seqs"], None)],
)
def test_the_servers_limit_is_read_from_its_command(command: list[str], expected: int | None) -> None:
    assert flags.batch_limit(command) == expected
