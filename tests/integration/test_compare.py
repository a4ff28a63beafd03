"""Merged against injected with the real PEFT: both ways of merging hold, and each kind of harm is found."""

import json
import shutil
from pathlib import Path

import pytest

from labkit import lora
from labkit.common.errors import LabError
from labkit.lora.proof import Proof
from labkit.models import course_model
from labkit.models.headers import read_header
from labkit.models.profiles import profile
from labkit.training import finetune

from .test_finetune import CONVERSATIONS, SETTINGS

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def base(home: Path) -> Path:
    return course_model.make(profile("tiny"), home / "models" / "tiny")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune.train(base, CONVERSATIONS, tmp_path_factory.mktemp("adapters") / "one", **SETTINGS).folder


@pytest.fixture(scope="module")
def merged(base: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lora.merge(base, adapter, tmp_path_factory.mktemp("merged") / "model").folder


@pytest.fixture(scope="module")
def sound(base: Path, adapter: Path, merged: Path) -> Proof:
    return lora.compare(base, adapter, merged, CONVERSATIONS)


def damaged(merged: Path, tmp_path: Path, name: str) -> Path:
    """A copy of the merged model in which one tensor's numbers have their signs turned round."""
    copy = shutil.copytree(merged, tmp_path / "damaged")
    for file in copy.glob("*.safetensors"):
        tensor = read_header(file).get(name)
        if tensor:
            content = bytearray(file.read_bytes())
            part = content[tensor.offset : tensor.offset + tensor.bytes]
            part[1::2] = bytes(byte ^ 0x80 for byte in part[1::2])
            content[tensor.offset : tensor.offset + tensor.bytes] = part
            file.write_bytes(content)
    return copy


def test_a_sound_merge_holds(sound: Proof) -> None:
    assert sound, sound.lines()
    assert (sound.lines()[0], sound.lines()[-1]) == ("weights: within one rounding", "merge: holds")
    assert sound.forced.largest > 0 and sound.exact is not None and 0 < sound.exact.largest < sound.forced.largest
    assert sound.base_agreement < sound.agreement
    assert sum(sound.forced.counts) == sound.forced.tokens == sum(sound.exact.counts)


def test_the_weights_are_counted_by_kind(sound: Proof, base: Path, adapter: Path) -> None:
    kinds = {one.kind: one for one in sound.weights}
    targets = set(json.loads((adapter / "adapter_config.json").read_text())["target_modules"])
    assert {kind for kind, one in kinds.items() if one.changed} == targets
    assert all(kinds[kind].changed == kinds[kind].tensors == profile("tiny").shape.layers for kind in targets)
    assert sum(one.elements for one in sound.weights) == profile("tiny").shape.parameters
    assert 0 < sound.share_changed < 1


def test_a_merge_by_peft_holds_too(base: Path, adapter: Path, tmp_path: Path) -> None:
    by_peft = lora.merge(base, adapter, tmp_path / "peft", method="peft").folder
    found = lora.compare(base, adapter, by_peft, CONVERSATIONS)
    assert found, found


def test_a_merge_that_changed_nothing_is_an_error(base: Path, adapter: Path) -> None:
    with pytest.raises(LabError, match="changed nothing: all .* tensors"):
        lora.compare(base, adapter, base, CONVERSATIONS[:4])


def test_harm_to_a_tensor_that_the_adapter_does_not_touch_is_named(base: Path, adapter: Path, merged: Path, tmp_path: Path) -> None:
    name = "model.layers.0.input_layernorm.weight"
    harmed = lora.compare(base, adapter, damaged(merged, tmp_path, name), CONVERSATIONS[:4])
    assert not harmed and harmed.astray == (name,) and name in harmed.lines()[-1]


def test_harm_to_a_merged_tensor_is_measured(base: Path, adapter: Path, merged: Path, tmp_path: Path) -> None:
    harmed = lora.compare(base, adapter, damaged(merged, tmp_path, "model.layers.0.self_attn.q_proj.weight"), CONVERSATIONS[:4])
    assert not harmed and not harmed.astray and "units in the last place" in harmed.lines()[-1]
    assert {one.kind for one in harmed.weights if one.ulps is not None and one.ulps > 1} == {"q_proj"}


def test_another_model_is_refused(base: Path, adapter: Path, merged: Path, tmp_path: Path) -> None:
    other = shutil.copytree(merged, tmp_path / "other")
    file = next(path for path in other.glob("*.safetensors") if "model.norm.weight" in read_header(path))
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["model.norm.weight"]["shape"].append(1)
    words = json.dumps(header).encode()
    file.write_bytes(len(words).to_bytes(8, "little") + words + content[8 + length :])
    with pytest.raises(LabError, match="model.norm.weight is bfloat16 .* not the same model"):
        lora.compare(base, adapter, other, CONVERSATIONS[:4])
