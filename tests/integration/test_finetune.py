"""Training with the real PEFT: the course model for a few steps, on a task that any model learns, a word for a word."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from labkit.common.errors import LabError, SettingError
from labkit.models import course_model
from labkit.models.headers import read_header
from labkit.models.profiles import profile
from labkit.runtimes import environments
from labkit.training import finetune

pytestmark = pytest.mark.integration

CONVERSATIONS = [
    [
        {"role": "user", "content": f"Host {number} says {word}."},
        {"role": "assistant", "content": f"It is {word}."},
        {"role": "user", "content": "JSON only."},
        {"role": "assistant", "content": f'<think>\n{word}\n</think>\n\n{{"root_cause": "{word}"}}'},
    ]
    for number in range(16)
    for word in ("disk", "network", "memory")
]
SETTINGS = {"steps": 24, "batch": 4, "learning_rate": 4e-3, "rank": 8, "alpha": 12}


@pytest.fixture(scope="module")
def base(home: Path) -> Path:
    return course_model.make(profile("tiny"), home / "models" / "tiny")


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> finetune.PeftTraining:
    return finetune.train(base, CONVERSATIONS, tmp_path_factory.mktemp("adapters") / "one", **SETTINGS)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_loss_falls_and_the_folder_is_an_ordinary_adapter(trained: finetune.PeftTraining, base: Path) -> None:
    assert trained.losses[-1] < 0.8 * trained.losses[0]
    config = json.loads((trained.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base.resolve()) and config["revision"] is None
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (8, 12, "LORA")
    tensors = read_header(trained.folder / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {"F32"}
    assert sum(tensor.bytes for tensor in tensors.values()) == 4 * trained.trainable
    assert len(tensors) == 2 * 7 * profile("tiny").shape.layers
    assert finetune.PeftTraining.load(trained.folder) == trained


def test_the_same_seed_gives_the_same_adapter_and_the_base_is_left_alone(
    trained: finetune.PeftTraining, base: Path, tmp_path: Path
) -> None:
    before = digests(base)
    again = finetune.train(base, CONVERSATIONS, tmp_path / "again", **SETTINGS)
    assert digests(base) == before
    name = "adapter_model.safetensors"
    if trained.device.startswith("cpu"):
        assert digests(again.folder)[name] == digests(trained.folder)[name]
    other = finetune.train(base, CONVERSATIONS, tmp_path / "other", seed=1, **{**SETTINGS, "steps": 1})
    assert other.losses[0] != trained.losses[0]


def test_what_the_worker_refuses_leaves_nothing(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(SettingError, match="longer than max_length 20; the longest, number"):
        finetune.train(base, CONVERSATIONS, out, max_length=20)
    with pytest.raises(LabError, match="no_such_proj"):
        finetune.train(base, CONVERSATIONS, out, targets=["no_such_proj"])
    assert not list(tmp_path.iterdir())


def test_four_bits_without_bitsandbytes_is_said_before_torch_is_imported(base: Path, tmp_path: Path) -> None:
    found = subprocess.run([str(environments.python("vllm")), "-c", "import bitsandbytes"], capture_output=True).returncode == 0
    if found:
        pytest.skip("bitsandbytes is in the environment")
    with pytest.raises(SettingError, match="bitsandbytes"):
        finetune.train(base, CONVERSATIONS, tmp_path / "out", four_bit=True)
    assert not list(tmp_path.iterdir())


def test_a_training_that_is_killed_leaves_nothing_that_looks_trained(base: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from tests.integration.test_finetune import *; finetune.train(sys.argv[1], CONVERSATIONS, sys.argv[2], steps=100000)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(base), str(tmp_path / "out")], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 120
    while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(8)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out").exists()
    finetune.train(base, CONVERSATIONS, tmp_path / "out", **{**SETTINGS, "steps": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
