"""Adapters and bases read from headers: scales, matching by PEFT's rules, what is no adapter and no base."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from lora_folders import model_tensors, write_adapter, write_base, write_json, write_tensors

from labkit.common.errors import LabError, VerificationError
from labkit.models.adapter import Adapter
from labkit.models.headers import Weights, read_header

Q, DOWN = "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.down_proj"


def adapter(tmp_path: Path, **config: Any) -> Adapter:
    return Adapter.read(write_adapter(tmp_path / "adapter", **config))


def test_the_scale_is_alpha_over_rank_and_over_its_root_with_rslora(tmp_path: Path) -> None:
    assert adapter(tmp_path, r=10, lora_alpha=24).scale_of(Q) == 2.4
    (tmp_path / "other").mkdir()
    assert adapter(tmp_path / "other", r=10, lora_alpha=24, use_rslora=True).scale_of(Q) == 24 / math.sqrt(10)


def test_patterns_match_endings_and_whole_names_and_the_first_counts(tmp_path: Path) -> None:
    patterns = {"layers.0.self_attn.q_proj": 2, "q_proj": 3, "^model.layers.1.mlp.down_proj": 5}
    read = adapter(tmp_path, rank_pattern=patterns, alpha_pattern={"down_proj": 9})
    assert [read.rank_of(name) for name in (Q.replace("1", "0"), Q, DOWN, "v_proj", "xq_proj")] == [2, 3, 5, 4, 4]
    assert read.scale_of(DOWN) == 9 / 5 and read.scale_of(Q) == 6 / 3
    assert read.highest_rank == 5


@pytest.mark.parametrize(
    ("config", "yes", "no"),
    [
        ({"target_modules": ["q_proj"]}, [Q, "q_proj"], [DOWN, "model.xq_proj"]),
        ({"target_modules": [Q]}, [Q, f"x.{Q}"], [Q.replace("1", "0")]),
        ({"target_modules": r".*layers\.1\..*proj"}, [Q, DOWN], [f"{Q}.x", Q.replace("1", "0")]),
        ({"target_modules": "all-linear"}, [Q, DOWN], ["lm_head"]),
        ({"target_modules": ["q_proj"], "layers_to_transform": [1]}, [Q], [Q.replace("1", "0"), Q.replace("1", "11")]),
        ({"target_modules": ["q_proj"], "layers_to_transform": 1, "layers_pattern": "layers"}, [Q], [Q.replace("1", "0")]),
        ({"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["h"]}, ["t.h.1.q_proj"], [Q]),
        ({"target_modules": ["q_proj", "down_proj"], "exclude_modules": ["down_proj"]}, [Q], [DOWN]),
        ({"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["lm_head"]}, [Q], ["lm_head"]),
    ],
)
def test_modules_are_matched_as_peft_matches_them(tmp_path: Path, config: dict[str, Any], yes: list[str], no: list[str]) -> None:
    read = adapter(tmp_path, **config)
    assert [name for name in [*yes, *no] if read.targets(name)] == yes


def test_a_pickle_is_refused_with_the_reason(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(LabError, match="adapter_model.bin is a Python pickle: reading one can run any program") as caught:
        Adapter.read(folder)
    assert "allow_pickle=True" in caught.value.fix
    assert Adapter.read(folder, allow_pickle=True).pickled


def test_folders_that_are_no_adapter_are_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="is no adapter folder: it has no adapter_config.json"):
        Adapter.read(tmp_path)
    folder = write_adapter(tmp_path / "adapter")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(LabError, match="neither adapter_model.safetensors nor adapter_model.bin"):
        Adapter.read(folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(LabError, match="adapter_config.json cannot be read"):
        Adapter.read(folder)


def test_headers_say_where_every_tensor_lies(tmp_path: Path) -> None:
    path = write_tensors(tmp_path / "x.safetensors", {"b": ("F32", (2, 3)), "a": ("BF16", (5,)), "none": ("F32", (0, 4))})
    found = read_header(path)
    size = int.from_bytes(path.read_bytes()[:8], "little")
    assert [(one.name, one.offset - 8 - size, one.bytes) for one in found.values()] == [("b", 0, 24), ("a", 24, 10), ("none", 34, 0)]


@pytest.mark.parametrize(
    "content", [b"", b"\x05", (2**40).to_bytes(8, "little"), (2).to_bytes(8, "little") + b"[]", (4).to_bytes(8, "little") + b"\xff{}}"]
)
def test_files_that_are_no_safetensors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError):
        read_header(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html>log in</html>", "web page"),
        (b"<html><body>404</body></html>", "web page"),
        (b"PK\x03\x04" + b"\x00" * 90, "torch.save"),
        (b"GGUF\x03\x00\x00\x00\xff\xff\xff\xff", "llama.cpp"),
    ],
)
def test_what_came_in_place_of_safetensors_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_header(path)


def test_a_header_whose_sizes_do_not_add_up(tmp_path: Path) -> None:
    path = write_tensors(tmp_path / "x.safetensors", {"a": ("F32", (4,))})
    path.write_bytes(path.read_bytes().replace(b"[4]", b"[5]"))
    with pytest.raises(ValueError, match="a has 16 bytes, not those of its shape"):
        read_header(path)


def test_a_base_names_what_is_wrong_with_it(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    index = {"weight_map": dict.fromkeys(model_tensors(), "model-00001-of-00001.safetensors")}
    write_json(base / "model.safetensors.index.json", index)
    with pytest.raises(VerificationError, match="model-00001-of-00001.safetensors is missing"):
        Weights.read(base)
    (base / "model.safetensors").rename(base / "model-00001-of-00001.safetensors")
    assert set(Weights.read(base).tensors) == set(model_tensors())
    write_json(base / "model.safetensors.index.json", {"weight_map": index["weight_map"] | {"x": "model-00001-of-00001.safetensors"}})
    with pytest.raises(VerificationError, match="1 tensors are not in the shard .* first x"):
        Weights.read(base)
    (base / "model.safetensors.index.json").unlink()
    with pytest.raises(VerificationError, match="index.json is missing"):
        Weights.read(base)
    (base / "model-00001-of-00001.safetensors").unlink()
    with pytest.raises(LabError, match="holds no safetensors file"):
        Weights.read(base)


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    base, folder = write_base(tmp_path / "base"), write_adapter(tmp_path / "adapter")
    code = "import json, sys; from labkit.lora import check; check(*sys.argv[1:]); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(base), str(folder)], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert not {"torch", "safetensors", "transformers"} & set(json.loads(done.stdout))
