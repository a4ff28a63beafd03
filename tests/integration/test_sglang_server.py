"""A real SGLang with the course model: what notebook 04 relies on, and the failures that students meet."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import labkit
from labkit.common.errors import LabError, StartFailed
from labkit.engines.pairs import PAIRS
from labkit.serving.server import Server
from labkit.telemetry.metrics import read_metrics

from .conftest import ENGINES, ask, attached_elsewhere, listening
from .doors import open_without_key


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    """One ready SGLang with the course model for the whole module."""
    started = labkit.serve("sglang", "tiny", owner="kernel", **ENGINES["sglang"])
    yield started
    started.stop()


def test_stages_and_kv_cache_were_read_from_the_log(server: Server) -> None:
    assert [name for name, _ in server.stages] == [stage.name for stage in server.engine.stages if stage.cpu_seconds]
    assert server.kv_cache_tokens == 65_536


def test_the_course_model_reasons_and_answers(server: Server) -> None:
    body: dict[str, object] = {"model": "tiny", "messages": [{"role": "user", "content": "Why is the KV cache paged?"}], "temperature": 0}
    _, answer = ask(server, "/v1/chat/completions", body)
    message = answer["choices"][0]["message"]
    assert message["reasoning_content"].strip().startswith("The user asks") and "memory is given out piece by piece" in message["content"]
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_its_own_endpoint_takes_a_text_and_counts_what_was_cached(server: Server) -> None:
    body: dict[str, object] = {"text": "The KV cache " * 20, "sampling_params": {"temperature": 0, "max_new_tokens": 8}}
    ask(server, "/generate", body)
    status, answer = ask(server, "/generate", body)
    assert status == 200 and answer["text"] and answer["meta_info"]["completion_tokens"] == 8
    assert answer["meta_info"]["cached_tokens"] > 20  # the radix cache is on


def test_several_texts_are_one_request(server: Server) -> None:
    _, answers = ask(server, "/generate", {"text": ["vLLM", "显存"], "sampling_params": {"max_new_tokens": 4}})
    assert [one["meta_info"]["completion_tokens"] for one in answers] == [4, 4]


def test_without_the_key_only_life_and_numbers_are_told(server: Server) -> None:
    assert {path for _, path in open_without_key(server)} <= {"/health", "/health_generate", "/metrics", "/metrics/"}


@pytest.mark.parametrize("path", ["/health", "/health_generate", "/metrics"])
def test_health_and_metrics_need_no_key(server: Server, path: str) -> None:
    assert ask(server, path, key="")[0] == 200


@pytest.mark.parametrize("path", ["/v1/models", "/server_info", "/model_info", "/generate"])
@pytest.mark.parametrize("key", ["sk-wrong", ""])
def test_everything_else_refuses_a_wrong_key(server: Server, path: str, key: str) -> None:
    status, answer = ask(server, path, {"text": "x"} if path == "/generate" else None, key=key)
    assert (status, answer) == (401, {"error": "Unauthorized"})


def test_its_metrics_are_understood(server: Server) -> None:
    before = read_metrics(server)
    body: dict[str, object] = {"model": "tiny", "prompt": "Two engines, one model. " * 8, "max_tokens": 16, "stream": True}
    body["ignore_eos"] = True
    for _ in range(2):
        assert ask(server, "/v1/completions", body)[0] == 200
    counted = read_metrics(server).since(before)
    assert counted["finished"] == 2 and counted["generated_tokens"] == 32 and counted["prompt_tokens"]
    assert counted.prefix_hit_share and 0 < counted.prefix_hit_share < 1  # the second time
    for latency in ("ttft", "itl", "e2e", "queue"):
        assert (counted.mean(latency) or 0) > 0, latency


def test_it_says_what_it_is(server: Server) -> None:
    _, info = ask(server, "/server_info")
    _, model = ask(server, "/model_info")
    assert info["max_total_num_tokens"] == server.kv_cache_tokens and info["max_running_requests"] == 4
    assert model["served_model_name"] == "tiny" and model["is_generation"]


def test_the_key_is_in_no_log_and_no_command_line_and_only_the_owner_reads_its_files(server: Server) -> None:
    everything = subprocess.run(["ps", "-eo", "args", "-ww"], capture_output=True, text=True, check=True).stdout
    assert server.key not in server.log.read_text() + server.errors.read_text() + everything + server.shown
    files = [server.key_file, server.key_file.with_suffix(".yaml")]
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o600, 0o600]


def test_it_listens_on_this_machine_only(server: Server) -> None:
    assert listening(server) == {"127.0.0.1"}


def test_another_process_attaches(server: Server) -> None:
    assert attached_elsewhere("sglang") == server.pid


def test_each_flag_of_the_table_is_one_of_its_flags(server: Server) -> None:
    words = subprocess.run([server.command[0], "-m", "sglang.launch_server", "--help"], capture_output=True, text=True, check=True).stdout
    missing = [pair.sglang for pair in PAIRS if pair.sglang and "--" + pair.sglang.replace("_", "-") not in words.split()]
    assert not missing


FAILURES = {
    "unknown flag": ({"max_runing_requests": 4}, "does not know the flag: --max-runing-requests 4"),
    "context": ({"context_length": 4096}, "4096 tokens.*2048"),
    "dtype": ({"dtype": "float8"}, "--dtype cannot be float8"),
    "quantisation": ({"quantization": "awq"}, "quantization=awq` was asked for"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_each_failure_is_explained_within_two_seconds_of_the_exit(name: str, fails: Callable[..., StartFailed]) -> None:
    flags, cause = FAILURES[name]
    fails("sglang", cause, **flags)


def test_a_damaged_weight_file_is_explained(cut_model: Path, fails: Callable[..., StartFailed]) -> None:
    fails("sglang", "damaged or cut short", cut_model, context_length=1024)


def test_flags_of_the_other_engine_are_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    with pytest.raises(LabError, match="max_num_seqs is max_running_requests"):
        labkit.serve("sglang", "tiny", max_num_seqs=4)
    assert not list(tmp_path.iterdir())
