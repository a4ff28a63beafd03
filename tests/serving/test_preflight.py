"""What is told of a start before it, through the plan that `serve` makes: nothing is started, no environment made."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_server import free_port
from nvml_stand_in import Card, fake_nvml

from labkit.common.errors import InstallError, PortInUse, ProfileError, SettingError
from labkit.engines.flags import flag_text
from labkit.machine import host
from labkit.models.profiles import profile
from labkit.serving import launch
from labkit.serving.launch import Launch, plan_launch

Machine = Callable[..., None]
QWEN = {"model_type": "qwen3", "max_position_embeddings": 131072}
ROPE = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "attn_factor": 0.88}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(QWEN))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """One GPU of a compute capability, its environment made; ports are looked at for real, from a range that nobody uses."""
    for variable in ("no_proxy", "NO_PROXY", "CUDA_VISIBLE_DEVICES", "LABKIT_OWNER", "LABKIT_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LABKIT_PORT_VLLM", str(free_port()))
    monkeypatch.setenv("LABKIT_PORT_SGLANG", str(free_port()))
    monkeypatch.setattr(launch.environments, "python", lambda engine: tmp_path / engine / "bin" / "python")

    def be(capability: tuple[int, int] | None = (9, 0), device: str = "gpu") -> None:
        monkeypatch.setenv("LABKIT_DEVICE", device)
        monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([Card(Name="Course Card", CudaComputeCapability=capability)]))

    be()
    return be


def plan(model: object, engine: str = "vllm", extra: tuple[str, ...] = (), **options: object) -> Launch:
    return plan_launch(engine, model, extra=extra, options=options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("capability", "options", "extra", "says"),
    [
        ((7, 0), {"dtype": "bfloat16"}, (), 'dtype="bfloat16": Course Card has compute capability 7.0'),
        ((7, 5), {}, ("--dtype=bfloat16",), 'dtype="bfloat16"'),
        ((8, 6), {"kv_cache_dtype": "fp8"}, (), 'kv_cache_dtype="fp8": Course Card has compute capability 8.6'),
        ((8, 0), {"kv_cache_dtype": "fp8_e4m3"}, (), 'kv_cache_dtype="fp8_e4m3"'),
        ((8, 6), {}, ("--kv-cache-dtype", "fp8"), 'kv_cache_dtype="fp8"'),
        ((8, 6), {}, ("--kv_cache_dtype=fp8",), 'kv_cache_dtype="fp8"'),
    ],
)
def test_a_flag_that_the_card_has_nothing_for(
    base: Path, machine: Machine, capability: tuple[int, int], options: dict[str, Any], extra: tuple[str, ...], says: str
) -> None:
    machine(capability)
    with pytest.raises(SettingError) as failure:
        plan(base, extra=extra, **options)
    assert failure.value.cause.startswith(says) and failure.value.fix


@pytest.mark.parametrize(
    ("engine", "capability", "options"),
    [
        ("vllm", (8, 0), {"dtype": "bfloat16"}),
        ("vllm", (7, 0), {"dtype": "half"}),
        ("vllm", (7, 0), {"dtype": "auto"}),
        ("vllm", (8, 9), {"kv_cache_dtype": "fp8"}),
        ("vllm", (9, 0), {"kv_cache_dtype": "fp8"}),
        ("vllm", (8, 6), {"kv_cache_dtype": "fp8_e5m2"}),
        ("vllm", (8, 6), {"kv_cache_dtype": "fp8", "attention_backend": "FLASHINFER"}),
        ("vllm", None, {"kv_cache_dtype": "fp8", "dtype": "bfloat16"}),
        ("sglang", (7, 5), {"dtype": "bfloat16"}),
    ],
)
def test_what_works_or_is_not_known_is_let_through(
    base: Path, machine: Machine, engine: str, capability: tuple[int, int] | None, options: dict[str, Any]
) -> None:
    machine(capability)
    assert plan(base, engine, **options).record.command


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize(
    ("capability", "options", "dtype"),
    [((7, 5), {}, "half"), ((7, 5), {"dtype": "float32"}, "float32"), ((8, 0), {}, None), (None, {}, None)],
)
def test_a_course_model_is_served_in_half_precision_where_there_is_no_bfloat16(
    machine: Machine, engine: str, capability: tuple[int, int] | None, options: dict[str, Any], dtype: str | None
) -> None:
    machine(capability)
    assert flag_text(plan(profile("qwen3-8b-shape"), engine, **options).record.command, "--dtype") == dtype


def test_without_a_gpu_no_card_is_asked(base: Path, machine: Machine) -> None:
    machine((7, 0), "cpu")
    assert flag_text(plan("tiny", kv_cache_dtype="fp8").record.command, "--dtype") is None


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize(
    "files",
    [
        {},
        {"tokenizer_config.json": "{}"},
        {"tokenizer_config.json": '{"chat_template": ""}'},
        {"tokenizer_config.json": '{"chat_template": null}', "tokenizer.json": "{}"},
        {"chat_template.json": "{}"},
    ],
)
def test_a_folder_without_a_chat_template_is_told_before_the_first_question(
    base: Path, machine: Machine, engine: str, files: dict[str, str]
) -> None:
    (base / "chat_template.jinja").unlink()
    for name, text in files.items():
        (base / name).write_text(text)
    told = plan(base, engine).announcement()
    assert f"note: {base} has no chat template" in told and "refuses every chat" in told and 'chat_template="<file>.jinja"' in told


@pytest.mark.parametrize(
    "files",
    [
        {"chat_template.jinja": "{{ messages }}"},
        {"chat_template.json": '{"chat_template": "{{ messages }}"}'},
        {"tokenizer_config.json": '{"chat_template": "{{ messages }}"}'},
        {"tokenizer_config.json": '{"chat_template": [{"name": "default", "template": "{{ messages }}"}]}'},
        {"tekken.json": "{}"},
        {"tokenizer_config.json": "not JSON: the engine says so"},
        {"config.json": '{"model_type": "paligemma"}'},
    ],
)
def test_a_template_in_any_of_its_places_is_found(base: Path, machine: Machine, files: dict[str, str]) -> None:
    (base / "chat_template.jinja").unlink()
    for name, text in files.items():
        (base / name).write_text(text)
    assert "chat template" not in plan(base).announcement()


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_template_that_is_given_settles_it(base: Path, machine: Machine, engine: str) -> None:
    given = (base / "chat_template.jinja").rename(base.parent / "own.jinja")
    planned = plan(base, engine, chat_template=given)
    assert not planned.notes and flag_text(planned.record.command, "--chat-template") == str(given)


@pytest.mark.parametrize(
    ("engine", "name", "text", "says"),
    [
        ("vllm", "none.jinja", None, "which is no file"),
        ("sglang", "none.jinja", None, "which is no file"),
        ("vllm", "tokenizer_config.json", '{"chat_template": "{{ messages }}"}', "holds JSON, not a Jinja template"),
        ("vllm", "x.json", '{"sep_style": "CHATML"}', "holds JSON"),
        ("sglang", "tokenizer_config.json", '{"chat_template": "{{ messages }}"}', "holds JSON"),
        ("sglang", "x.txt", "{{ messages }}", "that end in .jinja"),
    ],
)
def test_a_template_that_is_none_is_refused(base: Path, machine: Machine, engine: str, name: str, text: str | None, says: str) -> None:
    file = base.parent / name
    if text is not None:
        file.write_text(text)
    with pytest.raises(SettingError, match=says):
        plan(base, engine, chat_template=file)


@pytest.mark.parametrize(
    ("engine", "given"),
    [("vllm", "{% for m in messages %}{{ m.content }}{% endfor %}"), ("sglang", "chatml"), ("vllm", "x.txt"), ("sglang", "x.json")],
)
def test_what_an_engine_takes_as_a_template_is_let_through(
    base: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, engine: str, given: str
) -> None:
    monkeypatch.chdir(base)
    (base / "x.txt").write_text("{{ messages }}")
    (base / "x.json").write_text('{"name": "own", "sep_style": "CHATML"}')
    assert plan(base, engine, chat_template=given).record.command


def test_the_warning_of_the_course_model_s_rope_settings_is_explained(base: Path, machine: Machine) -> None:
    (base / "config.json").write_text(json.dumps(QWEN | {"rope_scaling": ROPE}))
    told = plan(base).announcement()
    assert "attn_factor. It is no fault" in told and "131072 tokens holds" in told
    (base / "config.json").write_text(json.dumps(QWEN | {"rope_parameters": ROPE}))
    assert "attn_factor" in plan(base).announcement()
    (base / "config.json").write_text(json.dumps(QWEN | {"rope_scaling": {"rope_type": "yarn"}}))
    assert "attn_factor" not in plan(base).announcement()


@pytest.mark.parametrize(
    ("files", "model", "says", "fix"),
    [
        ({"model-Q4_K_M.gguf": b"GGUF\3\0\0\0"}, "model-Q4_K_M.gguf", "is a GGUF file", "safetensors"),
        ({"blob": b"GGUF\3\0\0\0"}, "blob", "is a GGUF file", "safetensors"),
        ({"half.gguf": b""}, "half.gguf", "is a GGUF file", "safetensors"),
        ({"model.gguf": b"GGUF\3\0\0\0"}, "", "holds its weights as a GGUF file (model.gguf)", "safetensors"),
        ({"model.gguf": b"GGUF\3\0\0\0", "config.json": b"{}"}, "", "as a GGUF file", "safetensors"),
        ({}, "gone.gguf", "There is no f", ""),
        ({"model.safetensors": b"x"}, "model.safetensors", "is one file of a model", "Give the folder that it lies in"),
        ({"config.json": b"{}"}, "config.json", "is one file of a model", "Give the folder that it lies in"),
        ({"model.zip": b"PK"}, "model.zip", "is a file, and a model is a folder", "unpack"),
        ({"adapter_config.json": b"{}"}, "", "is a LoRA adapter", "labkit.lora.merge"),
        ({"inner/config.json": b"{}"}, "", "has no config.json", "One is in: inner"),
        ({"readme.md": b"x"}, "", "has no config.json", "Give the folder"),
    ],
)
def test_what_is_no_model_folder_is_named_as_what_it_is(
    tmp_path: Path, machine: Machine, files: dict[str, bytes], model: str, says: str, fix: str
) -> None:
    folder = tmp_path / "given"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for given in (str(folder / model), folder / model):
        with pytest.raises(ProfileError) as failure:
            plan(given)
        assert says in failure.value.cause and fix in failure.value.fix


@pytest.mark.parametrize("model", ["model-Q4_K_M.gguf", "weights/model.gguf"])
def test_a_gguf_by_a_name_without_a_place(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProfileError, match="GGUF file could not be served"):
        plan(model)
    Path(model).parent.mkdir(exist_ok=True)
    Path(model).write_bytes(b"GGUF\3\0\0\0")
    with pytest.raises(ProfileError, match="is a GGUF file"):
        plan(model)


def test_a_folder_with_both_forms_is_served(base: Path, machine: Machine) -> None:
    (base / "model.gguf").write_bytes(b"GGUF\3\0\0\0")
    (base / "model.safetensors").write_bytes(b"x")
    assert plan(base).record.source == str(base)


def test_a_port_that_is_taken_is_told_before_an_environment_is_made(base: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setenv("LABKIT_PORT_VLLM", str(other.getsockname()[1]))
        monkeypatch.setattr(launch.environments, "python", lambda engine: pytest.fail("an environment was asked for"))
        with pytest.raises(PortInUse, match=f"pid {os.getpid()}|is taken by"):
            plan(base)
        with pytest.raises(PortInUse):
            plan_launch("vllm", base, port=other.getsockname()[1], options={})


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_engine_finds_its_own_tools_first(
    base: Path, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    planned = plan(base, engine)
    assert planned.environment["PATH"] == f"{tmp_path / engine / 'bin'}:/usr/bin:/bin"
    assert f'PATH={tmp_path / engine / "bin"}:"$PATH"' in planned.record.shown
    monkeypatch.setenv("PATH", "/another/terminal")
    assert plan(base, engine).record.shown == planned.record.shown, "so that serve attaches from there too"


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize(
    ("variables", "options", "expected"),
    [
        ({}, {}, "127.0.0.1,localhost,::1"),
        ({"no_proxy": "example.org, 10.0.0.0/8"}, {}, "example.org,10.0.0.0/8,127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "localhost"}, {}, "localhost,127.0.0.1,::1"),
        ({"no_proxy": "a.org", "NO_PROXY": "b.org,a.org"}, {}, "a.org,b.org,127.0.0.1,localhost,::1"),
        ({"no_proxy": "*"}, {}, "*,127.0.0.1,localhost,::1"),
        ({"no_proxy": ",,"}, {"host": "10.1.2.3"}, "127.0.0.1,localhost,::1,10.1.2.3"),
        ({}, {"host": "0.0.0.0"}, "127.0.0.1,localhost,::1"),
    ],
)
def test_an_engine_asks_itself_without_a_proxy(
    base: Path,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    variables: dict[str, str],
    options: dict[str, Any],
    expected: str,
) -> None:
    for name, value in {"http_proxy": "http://proxy:1", **variables}.items():
        monkeypatch.setenv(name, value)
    planned = plan(base, engine, **options)
    assert planned.environment["no_proxy"] == planned.environment["NO_PROXY"] == expected
    assert "no_proxy=127.0.0.1,localhost,::1" in planned.record.shown and "proxy:1" not in planned.record.shown


def test_on_wsl_vllm_is_told_to_use_pinned_memory(base: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "VLLM_WSL2_ENABLE_PIN_MEMORY"
    assert name not in plan(base).environment
    monkeypatch.setattr(host, "wsl", lambda: "5.15.167.4-microsoft-standard-WSL2")
    assert plan(base).environment[name] == "1" and name not in plan(base, "sglang").environment
    monkeypatch.setenv(name, "0")
    assert name not in plan(base).environment, "whoever has set it has a reason"


def test_an_environment_of_ones_own_without_modelscope_is_told(
    base: Path, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("LABKIT_RUNTIME_VLLM", str(python))
    with pytest.raises(InstallError, match="has no modelscope") as failure:
        plan_launch("vllm", "org/model", use_modelscope=True, options={})
    assert failure.value.fix == f"{python} -m pip install modelscope"
    assert plan_launch("vllm", base, use_modelscope=True, options={}).record.command, "a folder needs no hub"


@pytest.mark.parametrize(("free", "limit", "says"), [(1.5, 2, "1.5 GiB of memory are free of 2.0 GiB (the container's limit)"), (8, 0, "")])
def test_too_little_memory_for_a_server_on_the_cpu_is_told(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, free: float, limit: int, says: str
) -> None:
    machine((9, 0), "cpu")
    monkeypatch.setattr(host, "free_memory", lambda: ((limit or 16) * 2**30, int(free * 2**30), limit * 2**30))
    told = plan("tiny").announcement()
    assert says in told and ("gets killed" in told) == bool(says)
    machine((9, 0), "gpu")
    assert "gets killed" not in plan("tiny").announcement()
