"""Merges in the real environment: PEFT's own bytes, kills and what is left of them, and inputs that must be refused."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labkit.common.errors import LabError, NoSpace, SettingError, VerificationError
from labkit.lora import drafts, merging
from labkit.lora.merging import merge
from labkit.models import random_weights
from labkit.models.headers import INDEX, Tensor, Weights
from labkit.models.profiles import Profile, profile

pytestmark = pytest.mark.integration

EQUAL = (
    *("plain", "scale", "bf16", "fp16", "rslora", "patterns", "layers", "regex", "dora", "dora-bf16", "embedding", "embedding-dora"),
    *("saved", "saved-norm", "bias", "mica", "tied", "fp16-base", "fp32-base", "fp32-base-bf16", "conv1d", "conv1d-dora"),
    *("conv1d-short-names", "wide", "wide-dora", "tying", "wrapped", "renamed", "resized"),
)
REFUSED = {
    "lokr": "LOKR is not LoRA",
    "tokens": "trainable_token_indices is set",
    "lora-bias": "lora_bias is set",
    "pissa": '"pissa" changes the base',
    "tied-head": "one tensor in this base",
    "tied-apart": "one tensor in this base",
    "tied-by-default": "one tensor in this base",
    "backup": "a part of the base's own weights",
    "untrained": "lora_A or lora_B is zero",
}


@pytest.fixture(scope="module")
def cases(home: Path, engine_pythons: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, an adapter and PEFT's merge for each case, made in one process."""
    folder = tmp_path_factory.mktemp("cases")
    script = Path(__file__).with_name("lora_cases.py")
    subprocess.run([str(engine_pythons["vllm"]), str(script), str(folder)], check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    return folder


@pytest.fixture(scope="module")
def several() -> Profile:
    """A Qwen3 of 61 MB: seven shards of 10 MB."""
    real = profile("qwen3-8b-shape")
    return replace(real, shape=replace(real.shape, layers=6, hidden=512, intermediate=2048, heads=8, kv_heads=4, head_dim=64, vocab=8000))


@pytest.fixture
def model(home: Path, several: Profile, tmp_path: Path) -> tuple[Path, Path]:
    """(base in several shards, adapter), random."""
    base = random_weights.fill(several, tmp_path / "base", shard_bytes=10_000_000)
    return base, random_weights.random_adapter(base, tmp_path / "adapter", rank=8, alpha=12)


def numbers(tensor: Tensor) -> bytes:
    with tensor.file.open("rb") as stream:
        stream.seek(tensor.offset)
        return stream.read(tensor.bytes)


def state(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What a write would change: size and times of every file."""
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.iterdir()}


def units_apart(ours: Tensor, theirs: Tensor) -> int:
    """The largest difference in units in the last place."""
    import numpy as np

    kind = np.int32 if ours.dtype == "F32" else np.int16
    lines = [np.frombuffer(numbers(tensor), kind).astype(np.int64) for tensor in (ours, theirs)]
    ordered = [np.where(line < 0, np.iinfo(kind).min - line, line) for line in lines]
    return int(np.abs(ordered[0] - ordered[1]).max(initial=0))


@pytest.mark.parametrize("name", EQUAL)
def test_it_is_what_peft_merges(cases: Path, tmp_path: Path, name: str) -> None:
    """Bit for bit where this machine multiplies rows as it multiplies the whole, within one unit in the last place on any."""
    case, before = cases / name, (state(cases / name / "base"), state(cases / name / "adapter"))
    merged = merge(case / "base", case / "adapter", tmp_path / "out")
    base, ours, theirs = (Weights.read(folder) for folder in (case / "base", tmp_path / "out", case / "peft"))
    assert (state(case / "base"), state(case / "adapter")) == before
    assert list(ours.tensors) == list(base.tensors) and [file.name for file in ours.files] == [file.name for file in base.files]
    prefix = "" if set(ours.tensors) <= set(theirs.tensors) else "transformer."
    assert {prefix + tensor for tensor in ours.tensors} == set(theirs.tensors)
    other = {one.name for one in ours.tensors.values() if numbers(one) != numbers(theirs.tensors[prefix + one.name])}
    assert all(units_apart(ours.tensors[one], theirs.tensors[prefix + one]) <= 1 for one in other)
    assert not other or not json.loads((cases / "rows.json").read_text())
    assert merged.changed == sum(numbers(one) != numbers(base.tensors[one.name]) for one in ours.tensors.values()) > 0


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_does_not_do_is_refused_by_name(cases: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(LabError, match=REFUSED[name]):
        merge(cases / name / "base", cases / name / "adapter", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "accept"),
    [
        ("scale", ()),
        ("lokr", ()),
        ("pissa", ()),
        ("tokens", ()),
        ("lora-bias", ()),
        ("tied-apart", ()),
        ("renamed", ()),
        ("tied-head", ("tied pair",)),
    ],
)
def test_peft_itself_by_the_same_contract(cases: Path, tmp_path: Path, name: str, accept: tuple[str, ...]) -> None:
    merged = merge(cases / name / "base", cases / name / "adapter", tmp_path / "out", method="peft", accept=accept)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (cases / name / "peft" / "model.safetensors").read_bytes()
    assert merged.changed > 0 and merged.record["method"] == "peft" and sorted(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.parametrize("name", ["wrapped", "tied-head", "backup", "untrained"])
def test_what_peft_would_merge_wrongly_is_refused_too(cases: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(LabError):
        merge(cases / name / "base", cases / name / "adapter", tmp_path / "out", method="peft")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", merging.METHODS)
def test_a_merge_that_changed_nothing_is_an_error(cases: Path, tmp_path: Path, method: str) -> None:
    faint = tmp_path / "faint"
    shutil.copytree(cases / "plain" / "adapter", faint)
    config = json.loads((faint / "adapter_config.json").read_text())
    (faint / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 1e-12}))
    with pytest.raises(LabError, match="changed nothing"):
        merge(cases / "plain" / "base", faint, tmp_path / "out", method=method)
    assert list(tmp_path.iterdir()) == [faint]


def test_the_folder_is_complete_and_says_where_it_comes_from(model: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = model
    (adapter / "tokenizer.json").write_text((base / "tokenizer.json").read_text())
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    merged = merge(base, adapter, tmp_path / "out", tokenizer="adapter")
    names = {path.name for path in base.iterdir()} - {"README.md"} | {merging.RECORD, "chat_template.jinja"}
    assert {path.name for path in merged.folder.iterdir()} == names - {"tokenizer_config.json"}
    assert (merged.folder / "config.json").read_text() == (base / "config.json").read_text()
    assert merged.record["scales"] == {"1.5": 42} and merged.changed == 42
    assert len(merged.record["base"]["files"]) == 7
    assert merged.report is not None and merged.report["chat template"]
    with pytest.raises(LabError, match="holds adapter already"):
        merge(merged.folder, adapter, tmp_path / "twice")


KILLED = """
import os, sys
from labkit.lora import drafts, merge

add = drafts.Draft.add

def die(self, shard, changed):
    add(self, shard, changed)
    if len(self.shards) == 2:
        os.kill(os.getpid(), 9)

drafts.Draft.add = die
merge(*sys.argv[1:])
"""


def test_a_killed_merge_looks_like_none_and_goes_on(model: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = model
    out, draft = tmp_path / "out", tmp_path / "out.merging"
    done = subprocess.run([sys.executable, "-c", KILLED, str(base), str(adapter), str(out)], cwd=Path(__file__).parents[2])
    assert done.returncode == -9
    assert not out.exists() and not (draft / "config.json").exists() and not (draft / INDEX).exists()
    kept = json.loads((draft / drafts.JOURNAL).read_text())["shards"]
    inodes = {name: (draft / name).stat().st_ino for name in kept}
    merged = merge(base, adapter, out)
    assert merged.resumed == 2 and not draft.exists()
    assert {name: (out / name).stat().st_ino for name in kept} == inodes
    afresh = merge(base, adapter, tmp_path / "afresh")
    assert afresh.resumed == 0 and afresh.changed == merged.changed
    assert all((out / file.name).read_bytes() == (tmp_path / "afresh" / file.name).read_bytes() for file in Weights.read(base).files)


@pytest.mark.parametrize("changed", ["base", "adapter", "asked"])
def test_nothing_is_gone_on_from_when_an_input_changed(model: tuple[Path, Path], tmp_path: Path, changed: str) -> None:
    base, adapter = model
    subprocess.run([sys.executable, "-c", KILLED, str(base), str(adapter), str(tmp_path / "out")], cwd=Path(__file__).parents[2])
    if changed == "base":
        os.utime(Weights.read(base).files[0])
    elif changed == "adapter":
        content = json.loads((adapter / "adapter_config.json").read_text())
        (adapter / "adapter_config.json").write_text(json.dumps({**content, "lora_alpha": 13}))
    assert merge(base, adapter, tmp_path / "out", resume=changed != "asked").resumed == 0


def test_two_merges_to_one_folder_do_not_mix(model: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = model
    code = KILLED.replace("os.kill(os.getpid(), 9)", "print('here', flush=True); sys.stdin.read()")
    words = [sys.executable, "-c", code, str(base), str(adapter), str(tmp_path / "out")]
    with subprocess.Popen(words, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "here\n"
        with pytest.raises(LabError, match="Another merge to .* is running"):
            merge(base, adapter, tmp_path / "out")
        other.kill()
    assert merge(base, adapter, tmp_path / "out").resumed == 2


def put(path: Path, name: str, value: float) -> None:
    """Put one fp32 number into the middle of a tensor of an adapter."""
    from labkit.models.headers import read_header

    tensor = read_header(path)[name]
    with path.open("r+b") as stream:
        stream.seek(tensor.offset + tensor.bytes // 8 * 4)
        stream.write(struct.pack("<f", value))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("half", ["A", "B"])
def test_a_broken_number_names_the_tensor_and_keeps_nothing(model: tuple[Path, Path], tmp_path: Path, value: float, half: str) -> None:
    base, adapter = model
    stem = "model.layers.3.mlp.up_proj"
    put(adapter / "adapter_model.safetensors", f"base_model.model.{stem}.lora_{half}.weight", value)
    before = state(base)
    with pytest.raises(LabError, match=f"NaN or infinity in 1 of 84 tensors, first .*{stem}.lora_{half}.weight"):
        merge(base, adapter, tmp_path / "out")
    assert state(base) == before and {path.name for path in tmp_path.iterdir()} == {"base", "adapter"}


def test_a_result_out_of_range_is_not_written(cases: Path, tmp_path: Path) -> None:
    case = cases / "fp16-base"
    shutil.copytree(case / "adapter", tmp_path / "adapter")
    put(tmp_path / "adapter" / "adapter_model.safetensors", "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight", 1e7)
    with pytest.raises(LabError, match="would leave the range of F16"):
        merge(case / "base", tmp_path / "adapter", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for bytes and for seven files: the eighth does not fit, and nobody can see it before."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m,nr_inodes=7", "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_leaves_whole_shards_for_the_next_call(model: tuple[Path, Path], small_disk: Path) -> None:
    base, adapter = model
    with pytest.raises(NoSpace, match="full"):
        merge(base, adapter, small_disk / "out")
    draft = small_disk / "out.merging"
    kept = json.loads((draft / drafts.JOURNAL).read_text())["shards"] if draft.exists() else {}
    assert not (small_disk / "out").exists()
    assert {path.name for path in draft.iterdir()} - {drafts.JOURNAL} == set(kept) if kept else not draft.exists()
    subprocess.run(["mount", "-o", "remount,nr_inodes=100", str(small_disk)], check=True)
    assert merge(base, adapter, small_disk / "out").resumed == len(kept)


def test_a_disk_without_room_is_refused_before_anything_is_written(model: tuple[Path, Path], small_disk: Path) -> None:
    base, adapter = model
    (small_disk / "filler").write_bytes(bytes(160_000_000))
    with pytest.raises(NoSpace, match="needed"):
        merge(base, adapter, small_disk / "out")
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_a_pickle_is_refused_unless_asked_for_and_then_read_without_running_it(
    cases: Path, engine_pythons: dict[str, Path], tmp_path: Path
) -> None:
    case, pickled, evil = cases / "scale", tmp_path / "pickled", tmp_path / "evil"
    shutil.copytree(case / "adapter", pickled)
    code = "import sys, torch; from safetensors.torch import load_file; torch.save(load_file(sys.argv[1]), sys.argv[2])"
    words = [str(pickled / "adapter_model.safetensors"), str(pickled / "adapter_model.bin")]
    subprocess.run([str(engine_pythons["vllm"]), "-c", code, *words], check=True)
    (pickled / "adapter_model.safetensors").unlink()
    with pytest.raises(LabError, match="adapter_model.bin is a Python pickle: reading one can run any program"):
        merge(case / "base", pickled, tmp_path / "out")
    merge(case / "base", pickled, tmp_path / "out", allow_pickle=True)
    merge(case / "base", case / "adapter", tmp_path / "same")
    assert all((tmp_path / "out" / file.name).read_bytes() == file.read_bytes() for file in Weights.read(tmp_path / "same").files)
    shutil.copytree(pickled, evil)
    mark = tmp_path / "ran"
    code = "import pickle, pathlib, sys\nclass E:\n  def __reduce__(self): return (pathlib.Path.touch, (pathlib.Path(sys.argv[2]),))\n"
    subprocess.run(
        [sys.executable, "-c", f"{code}pickle.dump(E(), open(sys.argv[1], 'wb'))", str(evil / "adapter_model.bin"), str(mark)], check=True
    )
    with pytest.raises(LabError, match="is no file of tensors"):
        merge(case / "base", evil, tmp_path / "never", allow_pickle=True)
    assert not mark.exists() and not (tmp_path / "never").exists()
    for rubbish in (b"", b"rubbish", b"\x80\x02}q\x00(X\x03", b"PK\x03\x04", b"\x80\x04."):
        (evil / "adapter_model.bin").write_bytes(rubbish)
        with pytest.raises(LabError, match=r"evil/adapter_model.bin (is no file of tensors|holds)"):
            merge(case / "base", evil, tmp_path / "never", allow_pickle=True)


def cut(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size - 1000)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda base, adapter: cut(base / "model-00003-of-00007.safetensors"), "model-00003-of-00007.safetensors .*cut off"),
        (lambda base, adapter: (base / "model-00002-of-00007.safetensors").unlink(), "model-00002-of-00007.safetensors is missing"),
        (lambda base, adapter: cut(adapter / "adapter_model.safetensors"), "adapter_model.safetensors .*cut off"),
        (lambda base, adapter: (base / "config.json").unlink(), "has no config.json"),
        (lambda base, adapter: (adapter / "adapter_config.json").unlink(), "has no adapter_config.json"),
    ],
)
def test_damaged_inputs_are_named_before_anything_is_written(model: tuple[Path, Path], tmp_path: Path, harm: Any, message: str) -> None:
    harm(*model)
    with pytest.raises((VerificationError, LabError), match=message):
        merge(*model, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"base", "adapter"}


def test_an_adapter_of_another_base(model: tuple[Path, Path], several: Profile, tmp_path: Path) -> None:
    other = random_weights.fill(replace(several, shape=replace(several.shape, hidden=256)), tmp_path / "other")
    with pytest.raises(LabError, match="another model"):
        merge(other, model[1], tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.merging").exists()


def test_a_place_that_is_taken(model: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = model
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine").write_text("dear")
    with pytest.raises(SettingError, match="is not empty"):
        merge(base, adapter, taken)
    with pytest.raises(SettingError, match="in one another"):
        merge(base, adapter, base / "merged")
    assert (taken / "mine").read_text() == "dear"
    (taken / "mine").unlink()
    assert merge(base, adapter, taken).folder == taken
