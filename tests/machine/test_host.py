"""The facts of this machine, and doctor's verdicts on machines that are not here."""

import dataclasses
import os
from pathlib import Path

import pytest

from labkit.common.disk import Disk
from labkit.common.errors import InstallError
from labkit.course import checkup
from labkit.machine import host, packages
from labkit.machine.gpu import Device
from labkit.machine.host import Facts, Processor
from labkit.machine.ports import Listener

HERE = host.facts()
PORT = HERE.settings.ports["vllm"]
SMALL = Disk(Path("/"), int(30e9), int(20e9), 1)
DATA = Disk(Path("/root/autodl-tmp"), int(50e9), int(45e9), 2)


def gpu(driver: str = "580.159.04", used: int = 2**20) -> Device:
    words = {"index": 0, "name": "Course Card", "uuid": "GPU-0", "total_bytes": 24 * 2**30, "used_bytes": used, "driver": driver}
    return Device(**{field.name: words.get(field.name) for field in dataclasses.fields(Device)})  # type: ignore[arg-type]


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
    }
    changes = {"visible": changes.get("gpus", ()), **changes}
    return dataclasses.replace(HERE, **healthy | changes)  # type: ignore[arg-type]


def line(facts: Facts, name: str) -> checkup.Line:
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
    table = checkup.Diagnosis((checkup.Line("name", "a <value>", "warn", "do this"),))
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
    row = line(well(gpus=(first, second), visible=(second,)), "hidden GPUs")
    assert (row.verdict, row.value) == ("ok", "GPU 0 hidden by CUDA_VISIBLE_DEVICES")
    row = line(well(gpus=(first, second), visible=()), "hidden GPUs")
    assert row.verdict == "warn" and row.value.startswith("GPU 0, 1 hidden") and "unset CUDA_VISIBLE_DEVICES" in row.fix
