"""Every finding of `check`: planted in a pair of folders that is otherwise right, found once, with its severity."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lora_folders import CONFIG, TOKENIZER, TOKENIZER_CONFIG, write_adapter, write_base, write_json

from labkit.common.errors import LabError, SettingError
from labkit.lora.checks import check
from labkit.lora.findings import BLOCKS, LOOK, CheckReport
from labkit.lora.merging import merge


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter whose training wrote everything beside it."""
    folder = write_adapter(tmp_path / "adapter")
    write_json(folder / "config.json", CONFIG)
    write_json(folder / "tokenizer.json", TOKENIZER)
    write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG)
    return folder


def edit(path: Path, **changes: Any) -> Path:
    write_json(path, {**(json.loads(path.read_text()) if path.exists() else {}), **changes})
    return path


def kinds(report: CheckReport) -> list[tuple[str, str]]:
    return [(finding.kind, finding.severity) for finding in report.findings]


def test_a_fitting_pair_has_no_findings(base: Path, adapter: Path) -> None:
    report = check(base, adapter, max_lora_rank=16)
    assert report and kinds(report) == [] and report.seconds < 2
    assert str(report).startswith("adapter on base: nothing blocks, 0 to look at (")


def test_an_adapter_alone_is_checked_by_what_it_has(base: Path, tmp_path: Path) -> None:
    assert kinds(check(base, write_adapter(tmp_path / "alone"))) == []


Plant = Callable[[Path, Path], object]
PLANTED: dict[str, tuple[Plant, list[tuple[str, str]], str]] = {
    "template in a file": (
        lambda b, a: (a / "chat_template.jinja").write_text("other"),
        [("chat template", LOOK)],
        "another chat template",
    ),
    "template in the config": (
        lambda b, a: edit(a / "tokenizer_config.json", chat_template="x"),
        [("chat template", LOOK)],
        "another chat template",
    ),
    "the same template in a file": (lambda b, a: (a / "chat_template.jinja").write_text("{{ messages }}\n"), [], ""),
    "rope theta": (lambda b, a: edit(a / "config.json", rope_theta=10000), [("rope", BLOCKS)], "rope_theta 10000 against 1000000"),
    "rope scaling": (
        lambda b, a: edit(a / "config.json", rope_scaling={"rope_type": "yarn", "factor": 4.0}),
        [("rope", BLOCKS)],
        "factor 4.0 against None; rope_type yarn against default",
    ),
    "rope as transformers 5 writes it": (
        lambda b, a: edit(a / "config.json", rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 1000000}),
        [],
        "",
    ),
    "another id": (
        lambda b, a: edit(a / "tokenizer.json", model={"vocab": {"a": 1, "b": 0}}),
        [("tokenizer", BLOCKS)],
        "2 tokens have other ids",
    ),
    "an added token": (
        lambda b, a: edit(a / "tokenizer.json", added_tokens=[*TOKENIZER["added_tokens"], {"content": "<call>", "id": 8}]),
        [("added tokens", LOOK)],
        "1 tokens that the base's lacks, first '<call>'",
    ),
    "an added token without a row": (
        lambda b, a: edit(a / "tokenizer.json", added_tokens=[*TOKENIZER["added_tokens"], {"content": "<call>", "id": 10}]),
        [("vocabulary", BLOCKS), ("added tokens", LOOK)],
        "ids up to 10, the embedding only 10 rows",
    ),
    "another end": (
        lambda b, a: edit(a / "tokenizer_config.json", eos_token="g"),
        [("special tokens", LOOK)],
        "eos_token 'g' against '<end>'",
    ),
    "the same end, written out": (lambda b, a: edit(a / "tokenizer_config.json", eos_token={"content": "<end>", "lstrip": False}), [], ""),
    "generation": (
        lambda b, a: edit(a / "generation_config.json", eos_token_id=7, temperature=0.9),
        [("generation config", LOOK)],
        "temperature 0.9 against 0.6",
    ),
    "trained in fp16": (lambda b, a: edit(a / "config.json", torch_dtype="float16"), [("dtype", LOOK)], "float16, served in bfloat16"),
    "config of another type": (lambda b, a: edit(b / "config.json", torch_dtype="float32"), [("dtype", LOOK), ("dtype", LOOK)], "float32"),
    "vocab_size": (
        lambda b, a: [edit(folder / "config.json", vocab_size=12) for folder in (b, a)],
        [("vocabulary", BLOCKS)],
        "12 tokens, the embedding has 10 rows",
    ),
    "quantised base": (
        lambda b, a: edit(b / "config.json", quantization_config={"quant_method": "awq"}),
        [("quantised base", BLOCKS)],
        "quantised (awq)",
    ),
    "trained on 4 bit by its name": (
        lambda b, a: edit(a / "adapter_config.json", base_model_name_or_path="unsloth/base-bnb-4bit"),
        [("trained on quantised", LOOK), ("base name", LOOK)],
        "unsloth/base-bnb-4bit",
    ),
    "trained on 4 bit by its config": (
        lambda b, a: edit(a / "config.json", quantization_config={"quant_method": "bitsandbytes"}),
        [("trained on quantised", LOOK)],
        "quantised base",
    ),
    "another model's sizes": (
        lambda b, a: edit(a / "config.json", num_hidden_layers=3, model_type="llama"),
        [("base mismatch", BLOCKS)],
        "num_hidden_layers 3 against 2; model_type llama against qwen3",
    ),
    "another name": (
        lambda b, a: edit(a / "adapter_config.json", base_model_name_or_path="Qwen/Qwen3-8B"),
        [("base name", LOOK)],
        "names Qwen/Qwen3-8B",
    ),
    "no name": (lambda b, a: edit(a / "adapter_config.json", base_model_name_or_path=None), [("base name", LOOK)], "does not say"),
    "rank": (
        lambda b, a: edit(a / "adapter_config.json", rank_pattern={"nothing_of_this_name": 65}),
        [("rank above limit", BLOCKS), ("idle patterns", LOOK)],
        "rank 65 is above --max-lora-rank 16",
    ),
    "not for vLLM": (
        lambda b, a: edit(a / "adapter_config.json", modules_to_save=["lm_head"], bias="all"),
        [("not servable", BLOCKS), ("idle patterns", LOOK)],
        "vLLM 0.32.0 cannot serve it unmerged: modules_to_save lm_head is refused; bias all is refused",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found(base: Path, adapter: Path, name: str) -> None:
    plant, expected, words = PLANTED[name]
    plant(base, adapter)
    report = check(base, adapter, max_lora_rank=16)
    assert sorted(kinds(report)) == sorted(expected)
    assert words in str(report) and bool(report) == all(severity == LOOK for _, severity in expected)
    assert all(finding.where and finding.breaks and finding.fix for finding in report.findings)


def test_the_fix_for_the_rank_is_a_value_that_vllm_takes(base: Path, adapter: Path) -> None:
    edit(adapter / "adapter_config.json", rank_pattern={"nothing_of_this_name": 65})
    [finding] = check(base, adapter, max_lora_rank=64)["rank above limit"]
    assert "max_lora_rank=128" in finding.fix
    assert check(base, adapter)


@pytest.mark.parametrize("name", ["somebody/Base", "/models/base/", "somebody/real-model", "local/copy"])
def test_a_base_is_known_by_any_of_its_names(base: Path, adapter: Path, name: str) -> None:
    write_json(base / "labkit.manifest.json", {"version": 1, "model": "hub/real-model", "profile": "course", "weights": True, "files": []})
    edit(base / "config.json", _name_or_path="local/copy")
    edit(adapter / "adapter_config.json", base_model_name_or_path=name)
    assert kinds(check(base, adapter)) == []


@pytest.mark.parametrize(("content", "said"), [("{", "cannot be read"), ("[]", "holds no JSON object")])
def test_a_file_that_is_no_json_object_is_named(base: Path, adapter: Path, content: str, said: str) -> None:
    (adapter / "tokenizer_config.json").write_text(content)
    with pytest.raises(LabError, match=f"tokenizer_config.json {said}"):
        check(base, adapter)


def test_the_report_shows_itself(base: Path, adapter: Path) -> None:
    edit(adapter / "adapter_config.json", lora_alpha=0, base_model_name_or_path="x/<b>")
    report = check(base, adapter)
    page = report._repr_html_()
    assert "1 blocks, 1 to look at" in page and "lora_alpha is 0" in page and "x/&lt;b&gt;" in page and "<b>" not in page
    assert report["lora_alpha"] and not report["rope"]
    assert str(report.error()).startswith("lora_alpha is 0")


def test_a_blocked_merge_writes_nothing(base: Path, adapter: Path, tmp_path: Path) -> None:
    edit(adapter / "config.json", rope_theta=10000)
    edit(adapter / "adapter_config.json", lora_alpha=0)
    for accept in ((), ("rope",), ("rope", "lora_alpha")):
        with pytest.raises(LabError, match="lora_alpha is 0"):
            merge(base, adapter, tmp_path / "out", accept=accept)
    edit(adapter / "adapter_config.json", lora_alpha=6)
    with pytest.raises(LabError, match="RoPE differs"):
        merge(base, adapter, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"base", "adapter"}


def test_bad_arguments_of_a_merge_are_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    (adapter / "tokenizer.json").unlink()
    for words in ({"method": "mergekit"}, {"tokenizer": "mine"}, {"tokenizer": "adapter"}):
        with pytest.raises(SettingError, match="mergekit|mine|brings no tokenizer"):
            merge(base, adapter, tmp_path / "out", **words)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="in one another"):
        merge(base, adapter, adapter / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"base", "adapter"}
