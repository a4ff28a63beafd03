"""The facts of this machine, and doctor's verdicts on machines that are not here."""

import dataclasses
import os
import sys
from pathlib import Path

import pytest

from labkit.common.disk import Disk
from labkit.common.errors import InstallError
from labkit.course import checkup, diagnosis
from labkit.machine import host, packages
from labkit.machine.gpu import Device
from labkit.machine.host import Building, Facts, Processor
from labkit.machine.kernel_spec import KernelSpec
from labkit.machine.nvml import DriverFailure
from labkit.machine.ports import Listener

HERE = host.facts()
PORT = HERE.settings.ports["vllm"]
SMALL = Disk(Path("/"), int(30e9), int(20e9), 1)
DATA = Disk(Path("/root/autodl-tmp"), int(50e9), int(45e9), 2)


def gpu(driver: str = "580.159.04", used: int = 2**20) -> Device:
    return Device(0, "Course Card", "GPU-0", 24 * 2**30, used, None, None, None, None, driver, capability=(8, 6))


def well(**changes: object) -> Facts:
    """A healthy machine without a GPU, changed as said."""
    healthy = {
        "autodl": False,
        "processor": Processor("A CPU", 8, avx2=True, avx512=False),
        "memory": 32 * 2**30,
        "memory_free": 30 * 2**30,
        "disks": {"system disk": Disk(Path("/"), int(200e9), int(100e9), 1)}
        | {n: Disk(Path("/d"), int(2e11), int(1e11), 1) for n in ("data home", "models")},
        "gpus": (),
        "tools": dict.fromkeys([*packages.TOOLS, "libnuma1"], True),
        "listeners": {"vllm": None, "sglang": None, "open_webui": None},
        "proxy": "",
        "turbo": False,
        "gpu_failure": None,
        "gpu_problem": None,
        "kernel": KernelSpec(Path("/home/kernel.json"), sys.executable),
        "building": Building("/usr/bin/gcc", headers=True, python="Python 3.11.7 at /usr", cuda=True),
        "wsl": "",
        "shared_memory_free": int(8e9),
        "environment": {},
    }
    changes = {"visible": changes.get("gpus", ()), **changes}
    return dataclasses.replace(HERE, **healthy | changes)  # type: ignore[arg-type]


def line(facts: Facts, name: str) -> diagnosis.Line:
    return next(line for line in checkup.judge(facts).lines if line.name == name)


def autodl(**changes: object) -> Facts:
    disks = {"system disk": SMALL, "data disk": DATA, "data home": DATA, "models": DATA}
    caches = {name: Path("/root/autodl-tmp/labkit-data/caches") / name for name in HERE.caches}
    return well(**{"autodl": True, "disks": disks, "caches": caches, "environment": {}} | changes)


def test_a_healthy_machine_blocks_nothing() -> None:
    table = checkup.judge(well())
    assert table.exit_code == 0 and table.verdict == "ok"
    assert all(bool(row.fix) == (row.verdict != "ok") for row in table.lines)


def test_this_machine_is_read() -> None:
    assert 1 <= HERE.processor.cores <= (os.cpu_count() or 1)
    assert 0 < HERE.memory_free <= HERE.memory
    assert HERE.disks["system disk"].total > HERE.disks["system disk"].free > 0
    assert set(HERE.listeners) == set(HERE.settings.ports)


@pytest.mark.parametrize(
    ("changes", "name", "fix"),
    [
        ({"processor": Processor("Old", 2, avx2=False, avx512=False)}, "processor", "AVX2"),
        ({"tools": dict.fromkeys(packages.TOOLS, True) | {"libnuma1": False}}, "libnuma1", "apt-get install -y libnuma1"),
        ({"gpus": (gpu("470.57.02"),)}, "vLLM list", "newer driver"),
        (
            {"disks": dict.fromkeys(("system disk", "data home", "models"), Disk(Path("/"), int(30e9), int(1e8), 1))},
            "system disk",
            "data disk",
        ),
    ],
)
def test_blockers(changes: dict[str, object], name: str, fix: str) -> None:
    facts = well(**changes)
    assert line(facts, name).verdict == "block" and fix in line(facts, name).fix
    assert checkup.judge(facts).exit_code == 1


@pytest.mark.parametrize(
    ("changes", "name", "fix"),
    [
        ({"memory": 4 * 2**30}, "memory", "6 GiB"),
        ({"listeners": {"vllm": Listener(PORT, 42, "nginx")}}, f"port {PORT}", "LABKIT_PORT_VLLM"),
        ({"tools": dict.fromkeys([*packages.TOOLS, "libnuma1"], True) | {"git-lfs": False}}, "tools", "apt-get install -y git-lfs"),
        ({"turbo": True, "proxy": "http://p"}, "acceleration", "unset http_proxy"),
        ({"gpus": (gpu(used=20 * 2**30),)}, "GPU 0", "./lab ps"),
    ],
)
def test_warnings(changes: dict[str, object], name: str, fix: str) -> None:
    facts = well(**changes)
    assert line(facts, name).verdict == "warn" and fix in line(facts, name).fix
    assert checkup.judge(facts).exit_code == 0


def test_driver_and_list_are_explained() -> None:
    facts = well(gpus=(gpu("570.86"),))
    assert "CUDA up to 12.8" in line(facts, "driver").value
    assert "vllm-cuda12" in line(facts, "vLLM list").value and "older than 580" in line(facts, "vLLM list").value


def test_autodl_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "~/.bashrc" in line(autodl(), "caches").fix, "not persisted yet"
    caches = dict(autodl().caches)
    assert line(autodl(environment={name: str(path) for name, path in caches.items()}), "caches").verdict == "ok"
    wrong = line(autodl(caches=caches | {"HF_HOME": Path("/root/.cache/huggingface")}), "caches")
    assert wrong.verdict == "warn" and "HF_HOME" in wrong.value


def test_small_system_disk_is_said_but_no_fault() -> None:
    assert line(autodl(), "system disk").verdict == "ok" and "nothing large" in line(autodl(), "system disk").value


def test_own_server_is_no_stranger() -> None:
    mine = Listener(PORT, 42, f"{HERE.settings.runtimes}/vllm-cpu/bin/python -m vllm.entrypoints.cli.main serve")
    assert line(well(listeners={"vllm": mine}), f"port {PORT}").verdict == "ok"


def test_table_in_terminal_and_notebook() -> None:
    table = diagnosis.Diagnosis((diagnosis.Line("name", "a <value>", "warn", "do this"),))
    assert "-> do this" in table.text() and "warn" in table.text()
    assert "a &lt;value&gt;" in table._repr_html_()


def test_conda_channels_are_read(tmp_path: Path) -> None:
    (tmp_path / ".condarc").write_text(
        "channels:\n  - https://mirror.example/main/\n  - defaults\nshow_channel_urls: true\nother:\n  - x\n"
    )
    assert host.facts({"HOME": str(tmp_path), "LABKIT_HOME": str(tmp_path)}).conda_channels == ("https://mirror.example/main/", "defaults")


def test_install_tools_has_nothing_to_do_or_says_what() -> None:
    assert packages.install_tools(["curl"] if HERE.tools["curl"] else []) == []
    with pytest.raises(InstallError, match="git-lfs"):
        packages.install_tools(["no-such-tool"])


def test_install_tools_without_root_gives_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(packages, "has", lambda name: False)
    with pytest.raises(InstallError, match="apt-get install -y git-lfs tmux"):
        packages.install_tools(["git-lfs", "tmux"])


def test_gpus_that_are_hidden_are_named() -> None:
    first, second = gpu(), dataclasses.replace(gpu(), index=1, uuid="GPU-2")
    row = line(well(gpus=(first, second), visible=(second,), environment={"CUDA_VISIBLE_DEVICES": "1"}), "hidden GPUs")
    assert (row.verdict, row.value) == ("ok", "GPU 0 hidden by CUDA_VISIBLE_DEVICES")
    row = line(well(gpus=(first, second), visible=(first,), environment={}), "hidden GPUs")
    assert (row.verdict, row.value) == ("ok", "GPU 1 not seen by CUDA beside a MIG slice"), "nobody set the variable"
    row = line(well(gpus=(first, second), visible=()), "hidden GPUs")
    assert row.verdict == "warn" and row.value.startswith("GPU 0, 1 hidden") and "unset CUDA_VISIBLE_DEVICES" in row.fix


SLICE = dataclasses.replace(gpu(), name="Course Card MIG 1g.10gb", uuid="MIG-1", parent="GPU-0", total_bytes=int(9.8 * 2**30))
OLD = dataclasses.replace(gpu(), name="Old Card", capability=(7, 0))
MUTE = dataclasses.replace(gpu(), total_bytes=0, used_bytes=0, memory_call="")
BUILDING = Building("/usr/bin/gcc", headers=True, python="Python 3.11.7 at /usr", cuda=True)
LOST = DriverFailure("GPU is lost", "A GPU no longer answers: it fell off the bus or overheated.", "Restart the instance.")
HIDDEN = ("CUDA_VISIBLE_DEVICES is '1', which names no GPU of this machine first: CUDA then sees none.", "unset CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    ("changes", "name", "verdict", "value", "fix"),
    [
        ({"gpu_failure": LOST, "gpu_problem": ("x", "y")}, "GPU", "block", "NVML says: GPU is lost", "Restart the instance"),
        ({"gpu_failure": LOST, "gpu_problem": ("x", "y")}, "vLLM list", "warn", "not known", "line on the GPU"),
        ({"gpu_failure": LOST, "gpu_problem": HIDDEN, "environment": {"LABKIT_DEVICE": "cpu"}}, "GPU", "warn", "lost", "Restart"),
        ({"gpu_failure": LOST, "gpu_problem": HIDDEN, "environment": {"LABKIT_DEVICE": "cpu"}}, "vLLM list", "ok", "vllm-cpu", ""),
        ({"gpu_failure": LOST, "gpus": (gpu(),)}, "GPU", "warn", "fell off the bus", "Restart the instance"),
        ({"gpus": (gpu(),), "visible": (SLICE,)}, "GPU 0", "ok", "MIG slice, 9.8 GiB, compute capability 8.6", ""),
        ({"gpus": (MUTE,)}, "GPU 0", "warn", "memory cannot be read", "LABKIT_PROFILE"),
        ({"gpus": (dataclasses.replace(gpu(used=9 * 2**30), memory_call="system"),)}, "GPU 0", "ok", "shared with the machine", ""),
        ({"gpus": (gpu(),), "visible": (), "gpu_problem": HIDDEN}, "CUDA_VISIBLE_DEVICES", "block", "'1', which names no GPU", "unset"),
        ({"gpus": (OLD,)}, "vLLM list", "ok", "vllm-cuda12: wheels built for CUDA 12: those for CUDA 13 have nothing", ""),
        ({"gpus": (OLD,)}, "SGLang list", "warn", "compute capability 7.0", "newer card"),
        ({"gpus": (OLD,)}, "number formats", "ok", "not in the hardware of this GPU: bfloat16, fp8; course models run in float16", ""),
        ({"gpus": (gpu(),)}, "number formats", "ok", "not in the hardware of this GPU: fp8", ""),
        ({"gpus": (dataclasses.replace(OLD, capability=(6, 1)),)}, "vLLM list", "block", "compute capability 6.1", "LABKIT_DEVICE=cpu"),
        (
            {"gpus": (dataclasses.replace(OLD, capability=(6, 1)),), "environment": {"LABKIT_DEVICE": "cpu"}},
            "vLLM list",
            "ok",
            "vllm-cpu",
            "",
        ),
        ({"gpus": (gpu(),), "building": dataclasses.replace(BUILDING, compiler="")}, "C compiler", "block", "none found", "install -y gcc"),
        ({"gpus": (gpu(),), "building": dataclasses.replace(BUILDING, headers=False)}, "Python.h", "block", "missing", "python3.11-dev"),
        (
            {"gpus": (gpu(),), "building": dataclasses.replace(BUILDING, cuda=False)},
            "CUDA library",
            "warn",
            "libcuda.so.1",
            "compute,utility",
        ),
        ({"gpus": (gpu(),), "wsl": "5.15.167.4-microsoft-standard-WSL2"}, "WSL", "ok", "PIN_MEMORY=1", ""),
        ({"kernel": None}, "Jupyter kernel", "warn", "not registered", "./lab"),
        (
            {"kernel": KernelSpec(Path("/k"), "/gone/python")},
            "Jupyter kernel",
            "warn",
            "leads to /gone/python, which is not there",
            "./lab",
        ),
        ({"memory": 2 * 2**30, "memory_free": 2**30, "container_limit": 2 * 2**30}, "memory", "warn", "container's limit", "with its GPU"),
        ({"shared_memory": int(64e6), "shared_memory_free": 1000}, "shared memory", "warn", "0 MB free", "ls -l /dev/shm"),
        ({"environment": {"http_proxy": "http://p:1"}}, "no_proxy", "warn", "does not name this machine", "export no_proxy=127.0.0.1,"),
        (
            {"environment": {"ALL_PROXY": "socks5://p:1", "no_proxy": "example.org"}},
            "no_proxy",
            "warn",
            "ALL_PROXY is set",
            "export no_proxy",
        ),
        ({"home_open": True}, "rights", "warn", "other users may write", "chmod go-w"),
        ({"environment": {"LABKIT_DEVICE": "cuda"}}, "LABKIT_DEVICE", "block", "cuda: no start takes that word", "cpu or gpu"),
        ({"environment": {"LABKIT_DEVICE": "gpu"}}, "LABKIT_DEVICE", "warn", "sees none", "unset"),
        ({"gpus": (gpu(),), "visible": (), "environment": {"CUDA_VISIBLE_DEVICES": ""}}, "hidden GPUs", "warn", "hidden by", "unset"),
        ({"environment": {"LABKIT_RUNTIME_VLM": "/x"}}, "LABKIT_RUNTIME_VLM", "warn", "names no engine", "unset"),
        ({"environment": {"LABKIT_RUNTIME_VLLM": "/gone/python"}}, "LABKIT_RUNTIME_VLLM", "block", "cannot be run", "unset"),
        ({"environment": {"LABKIT_RUNTIME_SGLANG": sys.executable}}, "LABKIT_RUNTIME_SGLANG", "warn", "has no sglang", "unset"),
    ],
)
def test_what_would_fail_later_is_known_beforehand(changes: dict[str, object], name: str, verdict: str, value: str, fix: str) -> None:
    row = line(well(**changes), name)
    assert (row.verdict, bool(row.fix)) == (verdict, verdict != "ok")
    assert value in row.value and fix in row.fix


@pytest.mark.parametrize(
    "environment",
    [{}, {"http_proxy": "http://p:1", "no_proxy": "127.0.0.1,localhost"}, {"https_proxy": "http://p:1", "NO_PROXY": "*"}],
)
def test_a_proxy_that_leaves_this_machine_out_is_no_fault(environment: dict[str, str]) -> None:
    assert not [row for row in checkup.judge(well(environment=environment)).lines if row.name == "no_proxy"]


def test_an_environment_of_ones_own_is_named_with_its_version(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    info = tmp_path / "vllm-0.99.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.99.0\n")
    table = checkup.judge(well(environment={"LABKIT_RUNTIME_VLLM": str(python)}))
    rows = {row.name: row for row in table.lines}
    assert f"{python}: vllm 0.99.0 is installed there" in rows["LABKIT_RUNTIME_VLLM"].value and "vLLM list" not in rows


def test_pages_of_files_are_not_memory_in_use(tmp_path: Path) -> None:
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 700\n")
    assert host._file_pages(tmp_path / "memory.stat") == 700
    (tmp_path / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 800\n")
    assert host._file_pages(tmp_path / "memory.stat") == 800
    assert host._file_pages(tmp_path / "none") == 0
