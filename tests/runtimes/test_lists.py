"""The pins say the same thing wherever they are written."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from labkit.runtimes import pinned

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
PYTHONS = ("3.11", "3.12")


def requirements(path: Path) -> list[Requirement]:
    return [Requirement(line) for line in path.read_text().splitlines() if line and not line.startswith("#")]


def pins(items: list[Requirement], python: str) -> dict[str, str]:
    where = {"python_version": python, "python_full_version": f"{python}.7", "sys_platform": "linux"}
    return {
        re.sub("[-_.]+", "-", item.name.lower()): str(item.specifier) for item in items if not item.marker or item.marker.evaluate(where)
    }


@pytest.mark.parametrize("python", PYTHONS)
def test_kernel_list_holds_pyprojects_pins(python: str) -> None:
    direct = pins([Requirement(text) for text in PROJECT["dependencies"]], python)
    whole = pins(requirements(ROOT / "runtimes" / "kernel.txt"), python)
    assert direct == {name: whole.get(name) for name in direct}
    assert all(version.startswith("==") for version in whole.values())


def test_conda_users_get_the_same() -> None:
    python = next(item for item in CONDA if isinstance(item, str) and item.startswith("python="))
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python=") + ".0")
    lines = next(item["pip"] for item in CONDA if isinstance(item, dict))
    assert lines == ["-r runtimes/kernel.txt", "-e ."], "pip then takes the pins of kernel.txt, equal to pyproject's by the test above"


def test_kernel_has_no_engine_and_no_pynvml() -> None:
    names = pins(requirements(ROOT / "runtimes" / "kernel.txt"), "3.11")
    assert not {"torch", "vllm", "transformers", "triton", "pynvml"} & set(names)
    assert "nvidia-ml-py" in names


@pytest.mark.parametrize("row", [row for tool in pinned.tools().values() for row in tool.lists], ids=lambda row: row.list)
def test_lists_are_exact_pins_without_conditions(row: pinned.PinnedList) -> None:
    assert all(re.fullmatch(r"==[^,*]+", str(item.specifier)) and not item.marker for item in requirements(row.file))


@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_engine_lists_are_whole(name: str) -> None:
    tool = pinned.tool(name)
    for row in tool.lists:
        items = requirements(row.file)
        local = [item.name for item in items if "+" in str(item.specifier)]
        assert local == ([] if row.cuda else ["torch"]), f"{row.list}: a local version leaked in from this or that machine's wheel folder"
        names = {item.name for item in items}
        assert {*tool.needs, "transformers"} <= names
        assert "ninja" in names, "torch and FlashInfer call it by name"
        assert "modelscope" in names, "imported under serve(use_modelscope=True), and brought by neither engine's own list for CPU"


def test_cpu_list_leaves_out_what_breaks_or_is_never_used() -> None:
    names = set(pins(requirements(ROOT / "runtimes" / "vllm-cpu.txt"), "3.11"))
    assert not {"torchvision", "torchaudio", "torchcodec", "triton"} & names


@pytest.mark.parametrize(("row", "major"), [("vllm-cuda13", "13"), ("vllm-cuda12", "12")])
def test_cuda_lists_hold_one_cuda(row: str, major: str) -> None:
    names = pins(requirements(ROOT / "runtimes" / f"{row}.txt"), "3.12")
    assert f"nvidia-nccl-cu{major}" in names
    assert f"nvidia-nccl-cu{'12' if major == '13' else '13'}" not in names


@pytest.mark.parametrize("name", ["open-webui", "browser"])
def test_the_front_end_brings_no_torch(name: str) -> None:
    assert not {"torch", "transformers", "triton", "chromadb"} & set(pins(requirements(ROOT / "runtimes" / f"{name}.txt"), "3.11"))
