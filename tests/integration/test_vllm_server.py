"""A real vLLM with the course model: what notebook 03 relies on, and the failures that students meet."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import labkit
from labkit.cli import main
from labkit.common.errors import LabError, StartFailed
from labkit.models.profiles import profile
from labkit.serving.server import Server

from .conftest import ask, attached_elsewhere, free_port, listening
from .doors import open_without_key


def test_stages_and_kv_cache_were_read_from_the_log(server: Server) -> None:
    assert [name for name, _ in server.stages] == [stage.name for stage in server.engine.stages if stage.cpu_seconds]
    assert server.kv_cache_tokens == 2**30 // profile("tiny").shape.kv_bytes_per_token()  # 1 GiB of it


def test_the_course_model_reasons_and_answers(server: Server) -> None:
    body: dict[str, object] = {"model": "tiny", "messages": [{"role": "user", "content": "Why is the KV cache paged?"}], "temperature": 0}
    _, answer = ask(server, "/v1/chat/completions", body)
    message = answer["choices"][0]["message"]
    assert message["reasoning"].strip().startswith("The user asks") and "memory is given out piece by piece" in message["content"]
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_a_wrong_key_is_refused(server: Server) -> None:
    assert ask(server, "/v1/models", key="sk-wrong")[0] == 401


def test_without_the_key_only_life_and_numbers_are_told(server: Server) -> None:
    assert {path for _, path in open_without_key(server)} == {"/health", "/metrics", "/metrics/"}
    body: dict[str, object] = {"model": "tiny", "prompt": "1 + 1 =", "max_tokens": 1}
    assert ask(server, "/invocations", body)[0] == 200 and ask(server, "/invocations", body, key="")[0] == 401


def test_it_listens_on_this_machine_only(server: Server) -> None:
    assert listening(server) == {"127.0.0.1"}


def test_the_key_is_in_no_log_and_no_command_line(server: Server) -> None:
    assert server.key not in server.log.read_text() + server.errors.read_text()
    assert not [process.pid for process in server.processes() if server.key in " ".join(process.cmdline())]


def test_the_shown_command_is_the_one_that_runs(server: Server) -> None:
    assert server.shown.endswith(" ".join(server.command)) and server.key not in server.shown and str(server.key_file) in server.shown


def test_serving_again_attaches(server: Server) -> None:
    assert labkit.serve("vllm", "tiny", owner="kernel", max_num_seqs=4).pid == server.pid
    assert labkit.attach("vllm").pid == server.pid


def test_another_process_attaches(server: Server) -> None:
    assert attached_elsewhere("vllm") == server.pid


def test_a_busy_port_is_told_before_anything_starts(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))  # another student's home on the same machine
    with pytest.raises(LabError, match=f"Port {server.port} is taken by pid {server.pid}"):
        labkit.serve("vllm", "tiny", port=server.port)
    assert not (tmp_path / "logs").exists()


FAILURES = {
    "unknown flag": ({"max_modle_len": 1024}, "does not know the flag: --max-modle-len 1024"),
    "context": ({"max_model_len": 4096}, "4096 tokens.*2048"),
    "dtype": ({"dtype": "float8"}, "--dtype cannot be float8"),
    "quantisation": ({"quantization": "awq"}, "quantization=awq` was asked for"),
    "tensor parallel": ({"tensor_parallel_size": 3}, "attention heads.*3|NUMA"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_each_failure_is_explained_within_two_seconds_of_the_exit(name: str, fails: Callable[..., StartFailed]) -> None:
    flags, cause = FAILURES[name]
    fails("vllm", cause, **flags)


def test_a_missing_folder_is_told_before_anything_starts(home: Path) -> None:
    with pytest.raises(LabError, match="no folder"):
        labkit.serve("vllm", "./no-such-model")


def test_a_damaged_weight_file_is_explained(cut_model: Path, fails: Callable[..., StartFailed]) -> None:
    fails("vllm", "damaged or cut short", cut_model, max_model_len=1024)


def test_up_ps_logs_and_down_outlive_the_terminal(home: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "LABKIT_HOME": str(tmp_path), "LABKIT_PORT_VLLM": str(free_port())}

    def lab(*words: str) -> str:
        done = subprocess.run([sys.executable, "-m", "labkit", *words], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "ready" in lab("up", "vllm", "tiny", "--max-num-seqs", "2")
    assert "ready" in lab("ps") and "'max_num_seqs': 2" in lab("logs", "vllm", "-n", "400")
    assert "0 processes left" in lab("down", "vllm") and "ended" in lab("ps")


@pytest.fixture
def draft(server: Server) -> Iterator[Server]:
    """A second vLLM beside the module's, under a name of its own."""
    started = labkit.serve("vllm", "tiny", name="draft", owner="kernel", max_num_seqs=2)
    yield started
    started.stop()


def test_two_servers_run_side_by_side_and_are_stopped_one_by_one(server: Server, draft: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert (draft.name, draft.state, server.state) == ("draft", "ready", "ready")
    assert draft.port != server.port and draft.key != server.key and draft.log.parent != server.log.parent
    assert not {process.pid for process in draft.processes()} & {process.pid for process in server.processes()}
    assert [each.name for each in labkit.running()] == ["draft", "vllm"] and attached_elsewhere("draft") == draft.pid
    for each, other in ((draft, server), (server, draft)):
        assert ask(each, "/v1/models")[1]["data"][0]["id"] == "tiny" and ask(each, "/v1/models", key=other.key)[0] == 401
    assert labkit.serve("vllm", "tiny", name="draft", owner="kernel", max_num_seqs=2).pid == draft.pid, "run again, it attaches"
    capsys.readouterr()
    assert main(["ps"]) == 0
    states = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines())
    assert (states["draft"], states["vllm"]) == ("ready", "ready")
    assert main(["logs", "draft", "-n", "3"]) == 0 and capsys.readouterr().out.strip()
    report = draft.stop()
    assert report.processes_left == 0 and (draft.state, server.state) == ("ended", "ready")
    assert ask(server, "/health")[0] == 200
