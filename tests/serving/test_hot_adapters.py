"""Adapters of a running server, against a loopback server that answers as vLLM does: what is refused, before and after asking."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from adapter_server import AdapterServer, adapter_server
from safetensors.numpy import load_file, save_file

from labkit.chat.served import resolve_model_name
from labkit.common.errors import AdapterError, LabError, NotRunning, SettingError, VerificationError
from labkit.engines import ENGINES
from labkit.serving import launch, servers
from labkit.serving.hot_adapters import with_lora

MODULES = ("q_proj", "v_proj")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AdapterServer]:
    make_base(tmp_path / "base")
    with adapter_server(tmp_path) as running:
        yield running


def make_base(folder: Path, width: int = 32) -> Path:
    folder.mkdir()
    tensors = {f"model.layers.0.self_attn.{name}.weight": np.zeros((width, width), np.float32) for name in MODULES}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3", "hidden_size": width, "torch_dtype": "float32"}))
    return folder


def make_adapter(folder: Path, width: int = 32, rank: int = 4, modules: tuple[str, ...] = MODULES) -> Path:
    folder.mkdir()
    tensors = {}
    for name in modules:
        stem = f"base_model.model.model.layers.0.self_attn.{name}"
        tensors[f"{stem}.lora_A.weight"] = np.ones((rank, width), np.float32)
        tensors[f"{stem}.lora_B.weight"] = np.ones((width, rank), np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 8,
        "target_modules": list(modules),
        "base_model_name_or_path": "base",
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_what_is_loaded_is_listed_with_the_words_for_clients(server: AdapterServer) -> None:
    (one,) = server.adapters()
    assert (one.name, one.model, one.base, one.folder) == ("one", "one", "tiny", "/adapters/one")
    server.be(ENGINES["sglang"])
    assert server.adapters().named("one").model == "tiny:one"
    assert "/adapters/one" in str(server.adapters()) and "<td>tiny:one</td>" in server.adapters()._repr_html_()


def test_a_name_becomes_the_words_that_clients_write(server: AdapterServer) -> None:
    assert [resolve_model_name(server, name) for name in (None, "tiny", "one")] == ["tiny", "tiny", "one"]
    server.be(ENGINES["sglang"])
    assert [resolve_model_name(server, name) for name in (None, "one", "tiny:one")] == ["tiny", "tiny:one", "tiny:one"]
    with pytest.raises(SettingError, match="serves no model 'tiny:two'") as failure:
        resolve_model_name(server, "tiny:two")
    assert failure.value.fix == "It has: tiny, tiny:one."


def test_loading_and_unloading(server: AdapterServer, tmp_path: Path) -> None:
    loaded = server.load_adapter("two", make_adapter(tmp_path / "two"))
    assert (loaded.name, loaded.folder) == ("two", str(tmp_path / "two")) and server.adapters().names == ["one", "two"]
    server.unload_adapter("one")
    assert server.adapters().names == ["two"]
    server.unload_adapter("two")
    assert str(server.adapters()) == "no adapters are loaded"


def refused(server: AdapterServer, name: str, folder: Path, kind: type[LabError], match: str, **options: bool) -> LabError:
    """The error of loading, after a look that nothing was asked of the engine."""
    with pytest.raises(kind, match=match) as failure:
        server.load_adapter(name, folder, **options)
    assert not server.http.seen and failure.value.fix
    return failure.value


def test_a_name_that_is_taken_is_refused(server: AdapterServer, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "two")
    refused(server, "one", folder, AdapterError, "has an adapter 'one' already, from /adapters/one")
    refused(server, "tiny", folder, SettingError, "name of the base")
    refused(server, "tiny:x", folder, SettingError, "no name for an adapter")


def test_a_folder_that_is_no_adapter_is_refused(server: AdapterServer, tmp_path: Path) -> None:
    refused(server, "two", tmp_path / "nowhere", LabError, "nowhere")
    refused(server, "two", tmp_path / "base", LabError, "adapter_config.json")
    cut = make_adapter(tmp_path / "cut") / "adapter_model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-8])
    refused(server, "two", tmp_path / "cut", VerificationError, "adapter_model.safetensors")
    refused(server, "two", tmp_path / "cut", VerificationError, "adapter_model.safetensors", check=False)


def test_an_adapter_of_another_base_is_refused(server: AdapterServer, tmp_path: Path) -> None:
    """vLLM takes a smaller one without a word."""
    refused(server, "two", make_adapter(tmp_path / "small", width=16), AdapterError, "32")
    refused(server, "two", make_adapter(tmp_path / "other", modules=("k_proj",)), AdapterError, "k_proj")


def test_a_rank_above_the_server_s_is_refused(server: AdapterServer, tmp_path: Path) -> None:
    error = refused(server, "two", make_adapter(tmp_path / "high", rank=16), AdapterError, "rank 16 is above --max-lora-rank 8")
    assert "max_lora_rank=16" in error.fix
    server.command = [*server.command, "--max-lora-rank=16"]
    assert server.load_adapter("two", tmp_path / "high").name == "two"


def test_without_a_flag_the_engine_s_own_limit_counts(server: AdapterServer, tmp_path: Path) -> None:
    server.command = ["python", "serve", "--enable-lora"]
    refused(server, "two", make_adapter(tmp_path / "high", rank=32), AdapterError, "rank 32 is above --max-lora-rank 16")


def test_without_a_check_or_weights_to_hold_it_against_the_engine_decides(server: AdapterServer, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "small", width=16)
    server.load_adapter("two", folder, check=False)
    (tmp_path / "base" / "model.safetensors").unlink()  # as with load_format="dummy"
    server.load_adapter("three", folder)
    server.source = "org/name"
    server.load_adapter("four", folder)
    assert server.adapters().names == ["one", "two", "three", "four"]


def test_a_quantised_base_hinders_a_merge_and_not_an_adapter(server: AdapterServer, tmp_path: Path) -> None:
    config = tmp_path / "base" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": {"quant_method": "awq"}}))
    assert server.load_adapter("two", make_adapter(tmp_path / "two")).name == "two"


def test_what_is_worth_a_look_is_printed(server: AdapterServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_adapter(tmp_path / "two")
    (folder / "chat_template.jinja").write_text("{{ other }}")
    server.load_adapter("two", folder)
    assert "chat template" in capsys.readouterr().out


def test_a_server_without_lora_is_told_apart_from_one_that_is_not_hot(server: AdapterServer, tmp_path: Path) -> None:
    folder, words = make_adapter(tmp_path / "two"), server.command
    server.command = ["python", "serve"]
    refused(server, "two", folder, AdapterError, "started without LoRA")
    with pytest.raises(AdapterError, match="started without LoRA"):
        server.unload_adapter("one")
    server.command, server.http.hot = words, False
    with pytest.raises(AdapterError, match="without hot_adapters=True") as failure:
        server.load_adapter("two", folder)
    assert "any folder" in failure.value.fix


def test_unloading_what_is_not_there_names_what_is(server: AdapterServer) -> None:
    with pytest.raises(AdapterError, match="No adapter 'two' is loaded; there is: one"):
        server.unload_adapter("two")
    assert not server.http.seen


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("Call to add_lora method failed: LoRA rank 64 is greater than max_lora_rank 8.", "rank 64"),
        ("Call to add_lora method failed: vLLM does not yet support DoRA.", "DoRA"),
        ("Call to add_lora method failed: something new", "vLLM refused: Call to add_lora method failed: something new"),
    ],
)
def test_what_the_engine_refuses_is_explained(server: AdapterServer, tmp_path: Path, words: str, cause: str) -> None:
    server.http.refusal = words
    with pytest.raises(AdapterError, match=cause) as failure:
        server.load_adapter("two", make_adapter(tmp_path / "two"))
    assert failure.value.fix


def test_a_server_that_is_gone_is_said_to_be(server: AdapterServer) -> None:
    server.port = 9
    with pytest.raises(NotRunning, match="does not answer"):
        server.adapters()


def test_the_page_serves_no_adapters(server: AdapterServer) -> None:
    server.be(ENGINES["open_webui"])
    with pytest.raises(AdapterError, match="serves no adapters"):
        server.adapters()


def test_on_cpu_the_last_slot_stays_empty(server: AdapterServer, tmp_path: Path) -> None:
    server.device = "cpu"
    server.log.write_text("INFO Loaded new LoRA adapter: name 'one'\n")
    server.load_adapter("two", make_adapter(tmp_path / "two"))
    server.log.write_text("INFO Loaded new LoRA adapter: name 'one'\n" * 2)
    server.unload_adapter("two")
    with pytest.raises(AdapterError, match="2 adapters into its 3 slots") as failure:
        server.load_adapter("three", tmp_path / "two")
    assert "max_loras=6" in failure.value.fix


VLLM, SGLANG, PAGE = (ENGINES[name] for name in ("vllm", "sglang", "open_webui"))


def test_the_flags_for_lora() -> None:
    assert with_lora(VLLM, {"max_num_seqs": 4}, [], hot=False, device="cpu") == {"max_num_seqs": 4}
    assert with_lora(VLLM, {}, [], hot=True, device="gpu") == {"enable_lora": True}
    assert with_lora(VLLM, {"enable_lora": True, "max_loras": 2}, [], hot=False, device="gpu") == {"enable_lora": True, "max_loras": 2}
    assert with_lora(VLLM, {"enable_lora": True, "max_loras": 2}, [], hot=False, device="cpu")["max_loras"] == 3
    assert with_lora(VLLM, {"max_loras": 1, "lora_modules": ["a=/a", "b=/b"]}, [], hot=True, device="cpu")["max_loras"] == 3
    assert with_lora(VLLM, {}, ["--enable-lora", "--lora-modules=a=/a"], hot=False, device="cpu") == {"max_loras": 9}
    assert with_lora(SGLANG, {"lora_paths": ["a=/a"]}, [], hot=False, device="gpu") == {"lora_paths": ["a=/a"]}


@pytest.mark.parametrize(
    ("kind", "options", "hot", "match"),
    [
        (SGLANG, {"enable_lora": True}, False, "needs a GPU for LoRA"),
        (SGLANG, {"lora_paths": ["a=/a"]}, False, "needs a GPU for LoRA"),
        (SGLANG, {}, True, "needs a GPU for LoRA"),
        (PAGE, {}, True, "serves no adapters"),
        (VLLM, {"enable_lora": False}, True, "contradict"),
    ],
)
def test_what_cannot_serve_adapters_is_told(kind: Any, options: dict[str, object], hot: bool, match: str) -> None:
    with pytest.raises(SettingError, match=match):
        with_lora(kind, options, [], hot=hot, device="cpu")


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `serve` would have started: records with their environments."""
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LABKIT_DEVICE", "gpu")
    monkeypatch.setattr(launch.environments, "python", lambda engine: Path("python"))
    calls: list[Any] = []

    def start(engine: Any, record: Any, environment: dict[str, str], *, share_gpu: bool) -> Any:
        calls.append((record, environment))
        return SimpleNamespace(wait=lambda timeout: None)

    monkeypatch.setattr(servers, "start", start)
    return calls


def test_loading_at_run_time_is_off_unless_asked_for(tmp_path: Path, started: list[Any]) -> None:
    base = make_base(tmp_path / "base")
    servers.serve("vllm", base, enable_lora=True)
    servers.serve("vllm", base, hot_adapters=True)
    (plain, without), (hot, with_it) = started
    variable = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"
    assert variable not in without and variable not in plain.shown and "--enable-lora" in plain.command
    assert with_it[variable] == "True" and f"{variable}=True" in hot.shown and "--enable-lora" in hot.command


def test_a_running_server_that_is_not_hot_is_not_taken_for_one_that_is(
    tmp_path: Path, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base(tmp_path / "base")
    servers.serve("vllm", base, enable_lora=True)
    entry = SimpleNamespace(record=started[0][0], status=lambda: SimpleNamespace(state="ready"))
    monkeypatch.setattr(servers, "ServerFolder", lambda name: entry)
    monkeypatch.setattr(servers, "Server", lambda kind, entry: SimpleNamespace(key="sk-", wait=lambda timeout: "attached"))
    assert servers.serve("vllm", base, enable_lora=True) == "attached"
    assert servers.serve("vllm", base, hot_adapters=True) is None and len(started) == 2


def test_adapters_for_the_start_are_looked_at_before_it(tmp_path: Path, started: list[Any]) -> None:
    base, small = make_base(tmp_path / "base"), make_adapter(tmp_path / "small", width=16)
    high = make_adapter(tmp_path / "high", rank=32)
    with pytest.raises(LabError, match="nowhere"):
        servers.serve("vllm", base, enable_lora=True, lora_modules=[f"a={tmp_path / 'nowhere'}"])
    with pytest.raises(AdapterError, match="32"):
        servers.serve("vllm", base, enable_lora=True, lora_modules=f"a={small}")
    with pytest.raises(AdapterError, match="rank 32 is above --max-lora-rank 16"):
        servers.serve("vllm", base, enable_lora=True, lora_modules=[f"a={high}"])
    assert not started
    servers.serve("vllm", base, enable_lora=True, max_lora_rank=32, lora_modules=[f"a={high}"])
    servers.serve("vllm", base, enable_lora=True, lora_modules=['{"name": "a", "path": "/x"}'])
    assert [record.command[-1] for record, _ in started] == [f"a={high}", '{"name": "a", "path": "/x"}']


def edit(folder: Path, **changes: Any) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


@pytest.mark.parametrize("weights", [True, False])
def test_numbers_and_settings_are_looked_at_with_the_base_s_weights_and_without(
    server: AdapterServer, tmp_path: Path, weights: bool
) -> None:
    if not weights:
        (tmp_path / "base" / "model.safetensors").unlink()
    refused(server, "two", edit(make_adapter(tmp_path / "dora"), lora_bias=True), AdapterError, "lora_bias")
    for name, number, said in (("nan", np.nan, "NaN or infinity"), ("zero", 0, "lora_A or lora_B is zero")):
        folder = make_adapter(tmp_path / name)
        tensors = {key: value * np.float32(number) for key, value in load_file(folder / "adapter_model.safetensors").items()}
        save_file(tensors, folder / "adapter_model.safetensors")
        refused(server, "two", folder, AdapterError, said)
    scaled = edit(make_adapter(tmp_path / "scaled"), use_rslora=True)
    assert server.load_adapter("two", scaled).name == "two"
    server.be(ENGINES["sglang"])
    server.http.seen.clear()
    refused(server, "three", scaled, AdapterError, "alpha / rank")
