"""`serve`, as far as no process is started: what it would run, with which environment, for which engine, model, flags and machine."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from nvml_stand_in import Card, fake_nvml
from stand_in import StandIn

from labkit.common.errors import AlreadyRunning, LabError, PortInUse, ProfileError, SettingError
from labkit.common.settings import settings
from labkit.engines import vllm
from labkit.models.profiles import profile
from labkit.serving import keys, launch, servers
from labkit.serving.launch import Launch, plan_launch
from labkit.serving.registry import Record, ServerFolder, Status

VLLM = ["PY", "-m", "vllm.entrypoints.cli.main", "serve"]
SGLANG = ["PY", "-m", "sglang.launch_server", "--model-path"]
VLLM_ALWAYS = {"VLLM_NO_USAGE_STATS": "1", "NO_COLOR": "1", "PYTHONPATH": str(vllm.INSIDE)}
DOOR = ["--middleware", "require_key.RequireKey"]
"""Behind the model of every vLLM."""
SGLANG_ALWAYS = {
    "SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE": "FILE",
    "SGLANG_LOGGING_CONFIG_PATH": "FILE",
    "SGLANG_CUDA_COREDUMP_BEFORE_CRASH": "0",
    "SGLANG_PYSPY_DUMP_BEFORE_CRASH": "0",
}
FOLDER = {"HF_HUB_OFFLINE": "1"}
CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCHDYNAMO_DISABLE": "1"}
SMALL = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


@dataclass
class Row:
    """One call of `serve`. BASE stands for the model folder, PY for the environment's Python, KEYS for the folder of keys."""

    argv: list[str]
    environment: dict[str, str]
    engine: str = "vllm"
    model: str = "BASE"
    device: str = "gpu"
    arguments: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    name: str = ""
    port: int = 8000


def named(model: str, port: int = 8000) -> list[str]:
    return ["--served-model-name", model, "--host", "127.0.0.1", "--port", str(port)]


ROWS = {
    "a folder": Row([*VLLM, "BASE", *named("base")], VLLM_ALWAYS | FOLDER),
    "a hub's id": Row([*VLLM, "org/model", *named("model")], VLLM_ALWAYS, model="org/model"),
    "a hub's id from ModelScope": Row(
        [*VLLM, "org/model", *named("model")],
        VLLM_ALWAYS | {"VLLM_USE_MODELSCOPE": "True"},
        model="org/model",
        arguments={"use_modelscope": True},
    ),
    "flags of every kind": Row(
        [*VLLM, "BASE", *named("base"), "--max-model-len", "1024", "--enforce-eager", "--limit", '{"image": 1}', "--stop", "a", "b"],
        VLLM_ALWAYS | FOLDER,
        options={"max_model_len": 1024, "enforce_eager": True, "quantization": None, "x": False, "limit": {"image": 1}, "stop": ["a", "b"]},
    ),
    "a flag of the caller's wins": Row(
        [*VLLM, "BASE", "--served-model-name", "mine", "--host", "0.0.0.0", "--port", "8000"],
        VLLM_ALWAYS | FOLDER,
        options={"host": "0.0.0.0", "served_model_name": "mine"},
    ),
    "further words come last": Row(
        [*VLLM, "BASE", *named("base"), "--seed", "1", "--new-flag"],
        VLLM_ALWAYS | FOLDER,
        options={"seed": 1},
        arguments={"extra": ["--new-flag"]},
    ),
    "another port": Row([*VLLM, "BASE", *named("base", 8123)], VLLM_ALWAYS | FOLDER, arguments={"port": 8123}, port=8123),
    "a port by the environment": Row(
        [*VLLM, "BASE", *named("base", 8200)], VLLM_ALWAYS | FOLDER, variables={"LABKIT_PORT_VLLM": "8200"}, port=8200
    ),
    "a name of its own, so another port": Row(
        [*VLLM, "BASE", *named("base", 8001)], VLLM_ALWAYS | FOLDER, arguments={"name": "draft"}, name="draft", port=8001
    ),
    "adapters while it runs": Row(
        [*VLLM, "BASE", *named("base"), "--enable-lora", "--max-lora-rank", "16"],
        VLLM_ALWAYS | FOLDER | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"},
        arguments={"hot_adapters": True},
        options={"max_lora_rank": 16},
    ),
    "the second GPU": Row(
        [*VLLM, "BASE", *named("base")],
        VLLM_ALWAYS | FOLDER | {"CUDA_VISIBLE_DEVICES": "1"},
        arguments={"gpus": [1]},
    ),
    "one GPU, not in a list": Row(
        [*VLLM, "BASE", *named("base")], VLLM_ALWAYS | FOLDER | {"CUDA_VISIBLE_DEVICES": "1"}, arguments={"gpus": 1}
    ),
    "two GPUs as one word": Row(
        [*VLLM, "BASE", *named("base")], VLLM_ALWAYS | FOLDER | {"CUDA_VISIBLE_DEVICES": "0,1"}, arguments={"gpus": "0, 1"}
    ),
    "both GPUs by UUID": Row(
        [*VLLM, "BASE", *named("base"), "--tensor-parallel-size", "2"],
        VLLM_ALWAYS | FOLDER | {"CUDA_VISIBLE_DEVICES": "1,0"},
        arguments={"gpus": ["GPU-b", "GPU-a"]},
        options={"tensor_parallel_size": 2},
    ),
    "the course model without a GPU": Row(
        [*VLLM, "HOME/models/tiny", *named("tiny"), "--max-model-len", "1024", "--reasoning-parser", "qwen3", "--enforce-eager"],
        VLLM_ALWAYS | CPU | SMALL | FOLDER,
        model="tiny",
        device="cpu",
    ),
    "the 8B shape has no weights to load": Row(
        [*VLLM, "HOME/models/qwen3-8b-shape", *named("qwen3-8b-shape"), "--max-model-len", "32768"]
        + ["--reasoning-parser", "qwen3", "--load-format", "dummy"],
        VLLM_ALWAYS | FOLDER,
        model="qwen3-8b-shape",
    ),
    "what a profile brings, left out": Row(
        [*VLLM, "HOME/models/qwen3-8b-shape", *named("qwen3-8b-shape"), "--load-format", "dummy"],
        VLLM_ALWAYS | FOLDER,
        model="qwen3-8b-shape",
        options={"max_model_len": None, "reasoning_parser": None},
    ),
    "SGLang takes its key from a file": Row(
        [*SGLANG, "BASE", "--config", "KEYS/sglang.yaml", *named("base", 30000), "--enable-metrics"],
        SGLANG_ALWAYS | FOLDER,
        engine="sglang",
        port=30000,
    ),
    "SGLang has other words for a profile": Row(
        [*SGLANG, "HOME/models/qwen3-8b-shape", "--config", "KEYS/sglang.yaml", *named("qwen3-8b-shape", 30000)]
        + ["--context-length", "32768", "--reasoning-parser", "qwen3", "--load-format", "dummy", "--enable-metrics"],
        SGLANG_ALWAYS | FOLDER,
        engine="sglang",
        model="qwen3-8b-shape",
        port=30000,
    ),
    "SGLang without a GPU, under a name": Row(
        [*SGLANG, "BASE", "--config", "KEYS/second.yaml", *named("base", 30001), "--enable-metrics", "--device", "cpu"]
        + ["--model-impl", "transformers", "--attention-backend", "torch_native", "--mem-fraction-static", "0.1"]
        + ["--max-total-tokens", "65536"],
        SGLANG_ALWAYS | FOLDER,
        engine="sglang",
        device="cpu",
        arguments={"name": "second"},
        name="second",
        port=30001,
    ),
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "awq", "bits": 4, "zero_point": True}}))
    return folder


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """This machine with its own home, two GPUs and an environment that is made already."""
    for variable in (
        "no_proxy",
        "NO_PROXY",
        "CUDA_VISIBLE_DEVICES",
        "CUDA_DEVICE_ORDER",
        "LABKIT_OWNER",
        "LABKIT_PROFILE",
        "LABKIT_PORT_VLLM",
    ):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([Card(UUID="GPU-a"), Card(UUID="GPU-b")]))
    monkeypatch.setattr(launch.environments, "python", lambda engine: Path("PY"))
    monkeypatch.setattr(launch.ports, "listener", lambda port: None)

    def be(device: str, variables: dict[str, str] | None = None) -> None:
        for name, value in {"LABKIT_DEVICE": device, **(variables or {})}.items():
            monkeypatch.setenv(name, value)

    be("gpu")
    return be


def plan(base: Path, row: Row) -> Launch:
    model = str(base) if row.model == "BASE" else row.model
    return plan_launch(row.engine, model, options=row.options, **row.arguments)


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_the_argument_list_and_the_environment(base: Path, machine: Callable[..., None], row: Row) -> None:
    machine(row.device, row.variables)
    planned, config = plan(base, row), settings()
    places = {str(base): "BASE", str(keys.key_file("x").parent): "KEYS", str(config.home): "HOME"}

    def plain(text: str) -> str:
        for place, word in places.items():
            text = text.replace(place, word)
        return text

    behind_model = len(VLLM) + 1
    argv = [*row.argv[:behind_model], *DOOR, *row.argv[behind_model:]] if row.engine == "vllm" else row.argv
    assert [plain(word) for word in planned.record.command] == argv
    own = {name: value for name, value in planned.environment.items() if name not in config.cache_environment()}
    key = {"VLLM_API_KEY": keys.key(planned.record.name)} if row.engine == "vllm" else {}
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if row.device == "gpu" else {}  # there are two
    expected = {"PYTHONPATH": "", **row.environment, **order, **key}
    assert own.pop("PATH").split(os.pathsep)[0] == str(Path("PY").parent), "the engine finds the tools of its own environment"
    assert own.pop("no_proxy") == own.pop("NO_PROXY") == "127.0.0.1,localhost,::1"
    files = ("SGLANG_LOGGING_CONFIG_PATH", "SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE")
    assert {name: "FILE" if name in files else value for name, value in own.items()} == expected
    assert (planned.record.name, planned.record.port) == (row.name or row.engine, row.port)


def test_what_is_shown_can_be_pasted_and_holds_no_key(base: Path, machine: Callable[..., None]) -> None:
    template = base / "a file's name.jinja"
    template.write_text("{{ messages }}")
    planned = plan_launch("vllm", base, name="draft", options={"chat_template": template})
    shown, secret = planned.record.shown, keys.key("draft")
    assert secret not in shown and secret in planned.environment.values()
    assert shown.startswith(
        f"VLLM_NO_USAGE_STATS=1 NO_COLOR=1 PYTHONPATH={vllm.INSIDE} HF_HUB_OFFLINE=1 CUDA_DEVICE_ORDER=PCI_BUS_ID PATH="
    )
    assert f'VLLM_API_KEY="$(cat {keys.key_file("draft")})"' in shown
    assert shlex.split(shown)[-len(planned.record.command) :] == planned.record.command
    assert planned.announcement().endswith("checkpoint: quantised, quant_method awq, bits 4 (from its config.json; no flag is needed)")


def test_processes_of_sglang_meet_in_a_file_and_at_no_port(base: Path, machine: Callable[..., None]) -> None:
    """torch's TCPStore listens on every address and asks nobody for a key. Several machines need it."""
    variable = "SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE"
    path = plan_launch("sglang", base, name="draft", options={}).environment[variable]
    assert path == f"file://{ServerFolder('draft').folder}/tmp/rendezvous"
    for options in ({"dist_init_addr": "10.0.0.1:5000"}, {"dp_size": 2}, {"data_parallel_size": 2}):
        assert variable not in plan_launch("sglang", base, options=options).environment
    assert variable not in plan_launch("sglang", base, options={}, extra=["--dist-init-addr=10.0.0.1:5000"]).environment


def test_the_record_says_where_everything_of_the_server_lies(base: Path, machine: Callable[..., None]) -> None:
    record = plan_launch("vllm", base, name="draft", gpus=[1], owner="kernel", options={}).record
    assert (record.engine, record.owner, record.device, record.gpus, record.source) == ("vllm", "kernel", "gpu", ["GPU-b"], str(base))
    assert Path(record.out).parent == Path(record.err).parent == settings().logs / "draft"
    assert record.key_file == str(keys.key_file("draft"))


@pytest.mark.parametrize(
    ("options", "variables", "uuids"),
    [
        ({}, {}, ["GPU-a"]),
        ({"tensor_parallel_size": 2}, {}, ["GPU-a", "GPU-b"]),
        ({"pipeline_parallel_size": 2}, {}, ["GPU-a", "GPU-b"]),
        ({"tensor_parallel_size": 8}, {}, ["GPU-a", "GPU-b"]),
        ({}, {"CUDA_VISIBLE_DEVICES": "1"}, ["GPU-b"]),
        ({"tensor_parallel_size": 2}, {"CUDA_VISIBLE_DEVICES": "1,0"}, ["GPU-b", "GPU-a"]),
    ],
)
def test_a_server_knows_its_gpus_without_being_told(
    base: Path, machine: Callable[..., None], options: dict[str, Any], variables: dict[str, str], uuids: list[str]
) -> None:
    machine("gpu", variables)
    planned = plan_launch("vllm", base, options=options)
    assert planned.record.gpus == uuids and "CUDA_VISIBLE_DEVICES" not in planned.environment


@pytest.mark.parametrize(
    ("engine", "arguments", "options", "error", "match"),
    [
        ("vlm", {}, {}, SettingError, "no engine 'vlm'.*"),
        ("open_webui", {}, {}, SettingError, "labkit.webui.serve"),
        ("vllm", {"name": "a/b"}, {}, SettingError, "no name for a server"),
        ("vllm", {"name": ""}, {}, SettingError, "no name for a server"),
        ("vllm", {"name": 5}, {}, SettingError, "5 is no name for a server"),
        ("vllm", {"owner": "Kernel"}, {}, SettingError, "owner is 'Kernel'"),
        ("vllm", {"owner": b"lab"}, {}, SettingError, "owner is b'lab'"),
        ("vllm", {"extra": "--seed 1"}, {}, SettingError, "extra is '--seed 1'"),
        ("vllm", {"extra": [1]}, {}, SettingError, "extra is"),
        ("vllm", {"model": 5}, {}, ProfileError, "5 is no model"),
        ("vllm", {"name": "sglang"}, {}, SettingError, "SGLang's own server"),
        ("vllm", {"gpus": [2]}, {}, SettingError, "no GPU 2"),
        ("vllm", {"gpus": []}, {}, SettingError, "at least one"),
        ("vllm", {"gpus": "GPU-x"}, {}, SettingError, "no GPU 'GPU-x'"),
        ("vllm", {"gpus": [0.5]}, {}, SettingError, "no GPU 0.5"),
        ("vllm", {"port": 0}, {}, SettingError, "port is 0"),
        ("vllm", {"port": 70000}, {}, SettingError, "port is 70000"),
        ("vllm", {"port": "8000"}, {}, SettingError, "port is '8000'"),
        ("sglang", {}, {"max_num_seqs": 4}, SettingError, "max_num_seqs is max_running_requests"),
        ("sglang", {}, {"config": "mine.yaml"}, SettingError, "uses it for the key"),
        ("vllm", {"hot_adapters": True}, {"enable_lora": False}, SettingError, "contradict"),
        ("vllm", {"model": "no such model"}, {}, ProfileError, "no profile, no folder and no hub id"),
        ("vllm", {"model": "/no/such/folder"}, {}, ProfileError, "no folder"),
        ("vllm", {"model": "r1-qwen3-8b"}, {}, ProfileError, "labkit.download"),
    ],
)
def test_what_cannot_be_served_is_told_before_an_environment_is_made(
    base: Path,
    machine: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    arguments: dict[str, Any],
    options: dict[str, Any],
    error: type[LabError],
    match: str,
) -> None:
    monkeypatch.setattr(launch.environments, "python", lambda engine: pytest.fail("an environment was asked for"))
    with pytest.raises(error, match=match):
        plan_launch(engine, **{"model": base, **arguments}, options=options)
    assert not (settings().state / "keys").exists()


def test_one_gpu_has_no_order(base: Path, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([Card(UUID="GPU-a")]))
    planned = plan_launch("vllm", base, options={})
    assert planned.record.gpus == ["GPU-a"] and "CUDA_DEVICE_ORDER" not in planned.environment


def test_gpus_on_a_machine_without_are_refused(base: Path, machine: Callable[..., None]) -> None:
    machine("cpu")
    with pytest.raises(SettingError, match="serves without a GPU"):
        plan_launch("vllm", base, gpus=[0], options={})


def test_the_next_free_port_is_nobody_s(base: Path, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """8001 is listened on, 8002 is a server's that is still starting, and a server keeps the port that it has."""
    starting = plan_launch("vllm", base, name="starting", port=8002, options={}).record
    monkeypatch.setattr(launch, "alive", lambda: [(ServerFolder("starting"), starting)])
    monkeypatch.setattr(launch.ports, "listener", lambda port: "somebody" if port == 8001 else None)
    assert plan_launch("vllm", base, name="draft", options={}).record.port == 8003
    assert plan_launch("vllm", base, name="starting", options={}).record.port == 8002
    monkeypatch.setattr(launch.ports, "listener", lambda port: "somebody")
    with pytest.raises(SettingError, match="No port from 8001 on"):
        plan_launch("vllm", base, name="draft", options={})


def test_a_profile_may_be_given_as_one(machine: Callable[..., None]) -> None:
    machine("cpu")
    assert isinstance(plan_launch("vllm", profile("tiny"), options={}).record, Record)


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """What `serve` would have started; an error in `lost` is raised instead, as by a start that somebody else won."""
    made: list[Record] = []

    def start(engine: Any, record: Record, environment: dict[str, str], *, share_gpu: bool) -> Any:
        made.append(record)
        return StandIn(record.port)

    monkeypatch.setattr(servers, "start", start)
    return made


@pytest.mark.parametrize(
    ("changes", "attaches"),
    [
        ({}, True),
        ({"gpus": ["GPU-b"]}, False),
        ({"gpus": [], "format": 1}, True),
        ({"owner": "kernel"}, False),
        ({"shown": "another line"}, False),
    ],
)
def test_serving_again_attaches_to_the_same_server_only(
    base: Path, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], attaches: bool
) -> None:
    wanted = plan_launch("vllm", base, owner="lab", options={})
    ServerFolder("vllm").save(replace(wanted.record, created_at=1.0, **changes))
    monkeypatch.setattr(ServerFolder, "status", lambda self: Status("ready"))
    assert (servers._running(wanted) is not None) == attaches


def test_a_server_that_outlives_its_kernel_serves_one_that_need_not(
    base: Path, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = plan_launch("vllm", base, owner="kernel", options={})
    ServerFolder("vllm").save(replace(wanted.record, created_at=1.0, owner="lab"))
    monkeypatch.setattr(ServerFolder, "status", lambda self: Status("ready"))
    assert servers._running(wanted) is not None


def test_a_port_that_was_lost_to_another_start_is_the_next_one(
    base: Path, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, starts: list[Record]
) -> None:
    taken: list[tuple[ServerFolder, Record]] = []
    won = servers.start

    def start(engine: Any, record: Record, environment: dict[str, str], *, share_gpu: bool) -> Any:
        if not taken:
            taken.append((ServerFolder("winner"), replace(record, name="winner")))
            raise PortInUse("Port 8001 belongs to the server 'winner'.", "")
        return won(engine, record, environment, share_gpu=share_gpu)

    monkeypatch.setattr(servers, "start", start)
    monkeypatch.setattr(launch, "alive", lambda: taken)
    assert servers.serve("vllm", base, name="draft", wait=False).port == 8002  # type: ignore[attr-defined]
    assert [record.port for record in starts] == [8002]
    taken.clear()
    with pytest.raises(PortInUse):
        servers.serve("vllm", base, name="draft", port=8001, wait=False)
    taken.clear()
    with pytest.raises(PortInUse):
        servers.serve("vllm", base, wait=False)


def test_the_same_start_at_the_same_instant_attaches(base: Path, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    def start(engine: Any, record: Record, environment: dict[str, str], *, share_gpu: bool) -> Any:
        if "--max-num-seqs" not in record.command:  # somebody else's start of the same
            ServerFolder(record.name).save(replace(record, created_at=1.0))
        raise AlreadyRunning("draft is already starting.", "")

    monkeypatch.setattr(servers, "start", start)
    monkeypatch.setattr(ServerFolder, "status", lambda self: Status("starting"))
    assert servers.serve("vllm", base, name="draft", wait=False).name == "draft"
    with pytest.raises(AlreadyRunning):
        servers.serve("vllm", base, name="draft", wait=False, max_num_seqs=1)
