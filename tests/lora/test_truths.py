"""What a merge would get wrong without a word, each planted in a pair of folders that is otherwise right."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lora_folders import CONFIG, PREFIX, model_tensors, pairs, write_adapter, write_base, write_json, write_tensors
from safetensors.numpy import save_file

from labkit.common.errors import LabError, VerificationError
from labkit.lora import companions
from labkit.lora.checks import check
from labkit.lora.findings import BLOCKS, LOOK, CheckReport
from labkit.lora.pairing import pair
from labkit.models.adapter import Adapter
from labkit.models.headers import Weights

Q = "model.layers.1.self_attn.q_proj"
EMBEDDING, HEAD = f"{PREFIX}model.embed_tokens", f"{PREFIX}lm_head"
ZERO = b"\x00"
WHOLE = ("F32", (10, 8))


def found(report: CheckReport, kind: str) -> Any:
    [finding] = report[kind]
    assert finding.where and finding.breaks and finding.advice
    return finding


def headless() -> dict[str, Any]:
    return {name: row for name, row in model_tensors().items() if not name.startswith("lm_head")}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base")


@pytest.mark.parametrize("model_type", ["gemma", "gemma2", "gpt2", "cohere", "of_its_own"])
@pytest.mark.parametrize("part", ["whole", "pair"])
def test_tied_by_default_is_tied(tmp_path: Path, model_type: str, part: str) -> None:
    base = write_base(tmp_path / "base", headless(), model_type=model_type, tie_word_embeddings=None)
    lora = {f"{EMBEDDING}.lora_embedding_A": ("F32", (4, 10)), f"{EMBEDDING}.lora_embedding_B": ("F32", (8, 4))}
    tensors = pairs() | ({f"{EMBEDDING}.weight": WHOLE} if part == "whole" else lora)
    adapter = write_adapter(tmp_path / "adapter", tensors, modules_to_save=["embed_tokens"] if part == "whole" else None)
    report = check(base, adapter)
    finding = found(report, "tied embeddings" if part == "whole" else "tied pair")
    assert finding.severity == BLOCKS and finding.peft == (part == "whole")
    assert not report.blocking(peft=True) if part == "whole" else report.blocking(peft=True)


@pytest.mark.parametrize("name", ["shared", "transformer.tokens_embed", "backbone.embeddings"])
@pytest.mark.parametrize("part", ["whole", "pair"])
def test_an_embedding_by_another_name_is_tied_all_the_same(tmp_path: Path, name: str, part: str) -> None:
    rows = {name if stem.startswith("model.embed") else stem: row for stem, row in headless().items()}
    tensors = {f"{name}.weight" if stem == name else stem: row for stem, row in rows.items()}
    base = write_base(tmp_path / "base", tensors, tie_word_embeddings=True)
    lora = {f"{PREFIX}{name}.lora_embedding_A": ("F32", (4, 10)), f"{PREFIX}{name}.lora_embedding_B": ("F32", (8, 4))}
    brought = pairs() | ({f"{PREFIX}{name}.weight": WHOLE} if part == "whole" else lora)
    last = name.rpartition(".")[2]
    adapter = write_adapter(tmp_path / "adapter", brought, modules_to_save=[last], target_modules=["q_proj", "down_proj", last])
    assert found(check(base, adapter), "tied embeddings" if part == "whole" else "tied pair").severity == BLOCKS


@pytest.mark.parametrize("ensured", [True, False])
@pytest.mark.parametrize("both", [True, False])
def test_one_tensor_that_stays_one_is_merged(tmp_path: Path, ensured: bool, both: bool) -> None:
    base = write_base(tmp_path / "base", headless(), tie_word_embeddings=True)
    tensors = pairs() | {f"{EMBEDDING}.weight": WHOLE} | ({f"{HEAD}.weight": WHOLE} if both else {})
    adapter = write_adapter(tmp_path / "adapter", modules_to_save=["embed_tokens"], ensure_weight_tying=ensured)
    alike = {name: b"\x00\x00\x80\x3f" for name in tensors if name.endswith(("embed_tokens.weight", "lm_head.weight"))}
    write_tensors(adapter / "adapter_model.safetensors", tensors, alike)
    pairing = pair(Weights.read(base), Adapter.read(adapter))
    merged = ensured or both
    assert any(change.target.name == "model.embed_tokens.weight" for change in pairing.changes) == merged
    assert [finding.kind for finding in pairing.findings] == ([] if merged else ["tied embeddings"])


def test_what_was_resized_in_memory_is_written_three_times_and_merged_once(base: Path, tmp_path: Path) -> None:
    copies = {f"{HEAD}.{part}weight": WHOLE for part in ("", "modules_to_save.", "original_module.")}
    adapter = write_adapter(tmp_path / "adapter", modules_to_save=["lm_head"])
    one = b"\x00\x00\x80\x3f"
    write_tensors(adapter / "adapter_model.safetensors", pairs() | copies, {f"{HEAD}.weight": one, f"{HEAD}.modules_to_save.weight": one})
    pairing = pair(Weights.read(base), Adapter.read(adapter))
    assert not pairing.findings
    [change] = [change for change in pairing.changes if change.target.name == "lm_head.weight"]
    assert change.start.name == f"{HEAD}.weight"
    write_tensors(adapter / "adapter_model.safetensors", pairs() | copies, {f"{HEAD}.weight": one})
    assert found(check(base, adapter), "two versions").severity == BLOCKS


@pytest.mark.parametrize("shape", [(0,), (0, 8), (4, 0)])
def test_empty_tensors_are_called_empty_and_nothing_else(base: Path, tmp_path: Path, shape: tuple[int, ...]) -> None:
    report = check(base, write_adapter(tmp_path / "adapter", {name: ("F32", shape) for name in pairs()}))
    assert [finding.kind for finding in report.blocking(peft=True)] == ["empty tensors"]
    assert "ZeRO-3" in str(report) and "another model" not in str(report)


BROKEN = {"F32": b"\x00\x00\xc0\x7f", "BF16": b"\xc0\x7f", "F16": b"\x00\x7e"}


@pytest.mark.parametrize("dtype", BROKEN)
def test_broken_and_untrained_numbers(base: Path, tmp_path: Path, dtype: str) -> None:
    adapter = write_adapter(tmp_path / "adapter", pairs(dtype=dtype))
    names = {half: [name for name in pairs() if f"lora_{half}" in name] for half in "AB"}
    for numbers, kind, severity in (
        ({names["B"][0]: BROKEN[dtype]}, "numbers", BLOCKS),
        (dict.fromkeys(names["B"], ZERO), "untrained", BLOCKS),
        (dict.fromkeys(names["A"], ZERO), "untrained", BLOCKS),
        ({names["B"][0]: ZERO}, "untrained", LOOK),
    ):
        write_tensors(adapter / "adapter_model.safetensors", pairs(dtype=dtype), numbers)
        report = check(base, adapter)
        assert found(report, kind).severity == severity and bool(report) == (severity == LOOK)


def test_a_pickle_is_not_opened_and_that_is_said(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    assert "were not looked at" in found(check(base, adapter, allow_pickle=True), "numbers not read").what


BESIDE = ["value_head.safetensors", "value_head.bin", "non_lora_trainables.bin", "trainable_params.bin", "new_embeddings.safetensors"]
BELOW = ["projector/model.safetensors", "value_head/pytorch_model.bin", "parts/embeddings/new.pt"]
NO_WEIGHTS = ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "rng_state_0.pth", "trainer_state.json", "scaler.pt"]


@pytest.mark.parametrize("name", [*BESIDE, "mm_projector.bin", "model.safetensors", "anything.pt", "weights.npz", *BELOW])
def test_weights_beside_the_adapter_are_named(base: Path, tmp_path: Path, name: str) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / name).parent.mkdir(parents=True, exist_ok=True)
    (adapter / name).write_bytes(b"weights")
    report = check(base, adapter)
    assert name in found(report, "trained beside").what and not report
    assert not report.blocking(["trained beside"])


@pytest.mark.parametrize("name", [*NO_WEIGHTS, "loss.npy", "metrics.npz", "checkpoint-5/model.safetensors", "global_step9/x_states.pt"])
def test_what_holds_no_weights_is_no_matter(base: Path, tmp_path: Path, name: str) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / name).parent.mkdir(parents=True, exist_ok=True)
    (adapter / name).write_bytes(b"state")
    assert check(base, adapter).findings == ()


@pytest.mark.parametrize("config", [{"model_type": "qwen3"}, {"peft_type": "LORA"}])
def test_a_folder_of_its_own_below_is_no_part_of_the_adapter(base: Path, tmp_path: Path, config: dict[str, str]) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / "other").mkdir()
    write_json(adapter / "other" / ("config.json" if "model_type" in config else "adapter_config.json"), config)
    (adapter / "other" / "model.safetensors").write_bytes(b"weights")
    assert check(base, adapter).findings == ()


def test_tokens_added_the_older_way_count(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    write_json(adapter / "added_tokens.json", {"<new>": 9})
    assert "<new>" in found(check(base, adapter), "added tokens").what
    write_json(adapter / "added_tokens.json", {"<new>": 10})
    assert found(check(base, adapter), "vocabulary").severity == BLOCKS


def test_an_adapter_in_two_files(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / "adapter_model.bin").write_bytes(b"older")
    assert found(check(base, adapter), "two files").severity == LOOK


def decomposed(weight: Any, how: str, rank: int) -> tuple[Any, Any]:
    """(A, B) as PiSSA and OLoRA take them out of a weight."""
    if how == "pissa":
        left, sizes, right = np.linalg.svd(weight, full_matrices=False)
        root = np.sqrt(sizes[:rank])
        return root[:, None] * right[:rank], left[:, :rank] * root
    left, right = np.linalg.qr(weight)
    return right[:rank], left[:, :rank]


@pytest.mark.parametrize("how", ["pissa", "olora"])
@pytest.mark.parametrize("size", [16, 48])
def test_a_part_of_the_base_is_no_ordinary_adapter(tmp_path: Path, how: str, size: int) -> None:
    drawn = np.random.default_rng(0)
    names = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(3)]
    weights = {name: drawn.normal(0, 0.05, (size, size)).astype(np.float32) for name in names}
    folder = tmp_path / "base"
    folder.mkdir()
    write_json(folder / "config.json", {**CONFIG, "torch_dtype": "float32"})

    def verdict(name: str, base: dict[str, Any], halves: dict[str, tuple[Any, Any]]) -> CheckReport:
        save_file({f"{module}.weight": weight for module, weight in base.items()}, folder / "model.safetensors")
        adapter = write_adapter(tmp_path / name, target_modules=["q_proj"], r=4, lora_alpha=4)
        tensors = {
            f"{PREFIX}{module}.lora_{half}.weight": np.ascontiguousarray(row)
            for module in halves
            for half, row in zip("AB", halves[module], strict=True)
        }
        save_file({key: value.astype(np.float32) for key, value in tensors.items()}, adapter / "adapter_model.safetensors")
        return check(folder, adapter)

    taken = {name: decomposed(weight, how, 4) for name, weight in weights.items()}
    trained = {name: (a + drawn.normal(0, 0.01, a.shape), b + drawn.normal(0, 0.01, b.shape)) for name, (a, b) in taken.items()}
    assert found(verdict("backup", weights, trained), "residual base").severity == BLOCKS
    rest = {name: (weight - taken[name][1] @ taken[name][0]).astype(np.float32) for name, weight in weights.items()}
    assert verdict("on-the-rest", rest, trained)
    ordinary = {name: (drawn.normal(0, 0.1, (4, size)), drawn.normal(0, 0.1, (size, 4))) for name in names}
    assert verdict("ordinary", weights, ordinary)
    assert found(verdict("pissa_backup", weights, ordinary), "residual base").severity == LOOK


@pytest.mark.parametrize(
    ("name", "beside", "config", "feared"),
    [
        ("checkpoint-5", "loftq_init", {}, True),
        ("pissa_converted", "pissa_init", {}, False),
        ("checkpoint-5", "model_init", {}, False),
        ("adapter", "", {"loftq_config": {"loftq_bits": 4}}, True),
        ("adapter", "", {"corda_config": {"corda_method": "kpm"}}, True),
        ("adapter", "", {"init_lora_weights": "lora_ga"}, True),
        ("adapter", "", {"loftq_config": {}, "corda_config": None, "init_lora_weights": "eva"}, False),
    ],
)
def test_signs_of_a_base_that_training_changed(
    base: Path, tmp_path: Path, name: str, beside: str, config: dict[str, Any], feared: bool
) -> None:
    adapter = write_adapter(tmp_path / name, **config)
    if beside:
        (tmp_path / beside).mkdir()
    report = check(base, adapter)
    assert [finding.severity for finding in report["residual base"]] == ([LOOK] if feared else [])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"alpha_pattern": {"base_model.model.model.layers.0.self_attn.q_proj": 128}}, "alpha_pattern base_model"),
        ({"rank_pattern": {"k_projj": 4}}, "rank_pattern k_projj"),
        ({"layers_to_transform": [0, 1, 30]}, "layers_to_transform 30"),
        ({"layers_to_transform": 7}, "layers_to_transform 7"),
        ({"modules_to_save": ["lm_headd"]}, "modules_to_save lm_headd"),
        ({"exclude_modules": ["lm_head", "k_projj"]}, "exclude_modules k_projj"),
        ({"exclude_modules": r".*vision.*"}, "exclude_modules .*vision.*"),
    ],
)
def test_settings_that_nothing_answers_to(base: Path, tmp_path: Path, change: dict[str, Any], named: str) -> None:
    finding = found(check(base, write_adapter(tmp_path / "adapter", **change)), "idle patterns")
    assert finding.severity == LOOK and named in finding.what


@pytest.mark.parametrize(
    ("request_", "kind", "severity"),
    [
        ({"lora_alpha": 0}, "lora_alpha", BLOCKS),
        ({"alpha_pattern": {"down_proj": 0}}, "lora_alpha", LOOK),
        ({"lora_alpha": None}, "lora_alpha", BLOCKS),
        ({"alpha_pattern": {".*": 0}}, "lora_alpha", BLOCKS),
        ({"future_config": {"a": 1}}, "unknown settings", LOOK),
        ({"peft_type": "lora"}, "peft_type", LOOK),
        ({"peft_type": None}, "peft_type", LOOK),
        ({"tensors": {}}, "empty", BLOCKS),
        ({"target_modules": ["q_proj", "down_proj", "w_pack"]}, "target modules", LOOK),
        ({"tensors": {name: row for name, row in pairs().items() if "layers.1" not in name}}, "missing tensors", LOOK),
    ],
)
def test_config_and_file_held_against_each_other(base: Path, tmp_path: Path, request_: dict[str, Any], kind: str, severity: str) -> None:
    assert found(check(base, write_adapter(tmp_path / "adapter", **request_)), kind).severity == severity


@pytest.mark.parametrize("head", ["score", "classifier", "qa_outputs", "v_head.summary"])
def test_a_head_that_the_base_has_not(base: Path, tmp_path: Path, head: str) -> None:
    tensors = pairs() | {f"{PREFIX}{head}.weight": ("F32", (1, 8))}
    report = check(base, write_adapter(tmp_path / "adapter", tensors, task_type="SEQ_CLS", modules_to_save=[head]))
    finding = found(report, "no such head")
    assert "SEQ_CLS" in finding.breaks and "save_pretrained" not in finding.advice and report.blocking(peft=True)


@pytest.mark.parametrize("wrapper", ["_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
def test_wrapped_keys_merge_as_plain_ones(base: Path, tmp_path: Path, wrapper: str) -> None:
    wrapped = {f"{wrapper}.{name}": row for name, row in pairs().items()}
    report = check(base, write_adapter(tmp_path / "adapter", wrapped))
    assert report and wrapper in found(report, "wrapped names").what
    assert "another model" not in str(report) and [finding.kind for finding in report.blocking(peft=True)] == ["wrapped names"]


def test_names_of_another_version_are_mapped_both_ways(tmp_path: Path) -> None:
    newer = {name.replace("model.layers", "model.language_model.layers"): row for name, row in model_tensors().items()}
    keys = {name.replace(f"{PREFIX}model.layers", f"{PREFIX}model.language_model.layers"): row for name, row in pairs().items()}
    for number, (stored, tensors) in enumerate([(None, keys), (newer, pairs())]):
        base = write_base(tmp_path / f"base{number}", stored, _name_or_path="base")
        report = check(base, write_adapter(tmp_path / f"adapter{number}", tensors))
        assert report and found(report, "renamed").severity == LOOK


QUANTISED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "gptq": (
        {"qweight": ("I32", (1, 16)), "scales": ("F16", (1, 16))},
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        "gptq, 4 bits",
    ),
    "awq": ({"qweight": ("I32", (8, 2)), "qzeros": ("I32", (1, 2))}, {"quantization_config": {"quant_method": "awq"}}, "awq"),
    "compressed": (
        {"weight_packed": ("I32", (16, 1))},
        {"quantization_config": {"quant_method": "compressed-tensors"}},
        "compressed-tensors",
    ),
    "fp8": ({"weight": ("F8_E4M3", (16, 8)), "weight_scale_inv": ("F32", (1,))}, {"quantization_config": {"quant_method": "fp8"}}, "fp8"),
    "bnb": (
        {"weight": ("U8", (64, 1)), "weight.absmax": ("U8", (2,))},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
        "bitsandbytes",
    ),
    "inner config": ({"weight": ("BF16", (16, 8))}, {"text_config": {"quantization_config": {"quant_method": "awq"}}}, "awq"),
    "parts alone": ({"qweight": ("I32", (1, 16)), "qzeros": ("I32", (1, 2))}, {}, "parts such as .q"),
    "type alone": ({"weight": ("F8_E4M3", (16, 8))}, {}, "F8_E4M3"),
}


@pytest.mark.parametrize("name", [*QUANTISED, "file of its own"])
def test_a_quantised_base_is_called_that_first(tmp_path: Path, name: str) -> None:
    parts, config, said = QUANTISED.get(name, (QUANTISED["gptq"][0], {}, "gptq, by quantize_config.json, 4 bits"))
    tensors = {tensor: row for tensor, row in model_tensors().items() if "q_proj" not in tensor}
    tensors |= {f"model.layers.{layer}.self_attn.q_proj.{part}": row for layer in (0, 1) for part, row in parts.items()}
    base = write_base(tmp_path / "base", tensors, **config)
    if name == "file of its own":
        write_json(base / "quantize_config.json", {"bits": 4})
    adapter = {key: row for key, row in pairs().items() if "q_proj" in key}
    report = check(base, write_adapter(tmp_path / "adapter", adapter, target_modules=["q_proj"]))
    first, *others = report.blocking(["quantised base"])
    assert first.kind == "quantised base" and said in first.what and others == []
    assert "match nothing" not in str(report) and "another model" not in str(report)


@pytest.mark.parametrize("left_out", ["head_dim", "rope_theta", "num_key_value_heads"])
def test_defaults_written_out_are_no_difference(tmp_path: Path, left_out: str) -> None:
    whole = {"model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 2, "rope_theta": 10000.0}
    base = write_base(tmp_path / "base", **whole)
    config = json.loads((base / "config.json").read_text())
    adapter = write_adapter(tmp_path / "adapter")
    write_json(adapter / "config.json", config)
    write_json(base / "config.json", {name: value for name, value in config.items() if name != left_out})
    assert check(base, adapter).findings == ()
    write_json(adapter / "config.json", {**config, left_out: 3})
    assert not check(base, adapter)


def pooling(base: Path) -> None:
    write_json(base / "modules.json", [{"idx": 0, "path": ""}, {"idx": 1, "path": "1_Pooling"}, {"idx": 2, "path": "2_Dense"}])
    for folder in ("1_Pooling", "2_Dense", "onnx", "../outside"):
        (base / folder).mkdir()
        write_json(base / folder / "config.json", {"pooling_mode_mean_tokens": True})
    write_tensors(base / "2_Dense" / "model.safetensors", {"linear.weight": ("F32", (2, 2))})
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tools.jinja").write_text("x")
    (base / "model.onnx").write_bytes(b"x")


def test_folders_that_the_base_points_to_go_into_the_merge(base: Path) -> None:
    pooling(base)
    carried = set(companions.files(base))
    assert {"1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors", "additional_chat_templates/tools.jinja"} <= carried
    assert not {name for name in carried if name.startswith(("onnx", "..")) or name == "model.safetensors"}


def test_a_folder_that_is_named_and_not_there_is_told(base: Path, tmp_path: Path) -> None:
    write_json(base / "modules.json", [{"path": "1_Pooling"}, {"path": "../../etc"}])
    finding = found(check(base, write_adapter(tmp_path / "adapter")), "folders")
    assert "1_Pooling" in finding.what and "etc" not in finding.what


def two_models(base: Path) -> None:
    write_tensors(base / "model-00001-of-00002.safetensors", model_tensors())
    write_json(base / "model.safetensors.index.json", {"weight_map": dict.fromkeys(model_tensors(), "model-00001-of-00002.safetensors")})


def two_savings(base: Path) -> None:
    (base / "model.safetensors").unlink()
    names = list(model_tensors())
    files = {name: f"model-00001-of-0000{2 + number % 2}.safetensors" for number, name in enumerate(names)}
    for file in set(files.values()):
        write_tensors(base / file, {name: row for name, row in model_tensors().items() if files[name] == file})
    write_json(base / "model.safetensors.index.json", {"weight_map": files})


def twice(base: Path) -> None:
    (base / "model.safetensors").rename(base / "a.safetensors")
    write_tensors(base / "b.safetensors", {"lm_head.weight": ("BF16", (10, 8))})


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (two_models, "holds two models"),
        (two_savings, "of two savings"),
        (twice, "holds lm_head.weight twice, in a.safetensors and in b.safetensors"),
    ],
)
def test_two_models_in_one_folder(base: Path, harm: Callable[[Path], None], said: str) -> None:
    harm(base)
    with pytest.raises((LabError, VerificationError), match=said):
        Weights.read(base)


@pytest.mark.parametrize(
    ("place", "said"), [("snapshots/ab12", "there is one in snapshots/ab12"), ("checkpoint-9", "there is one in checkpoint-9")]
)
def test_a_base_a_level_or_two_down_is_named(tmp_path: Path, place: str, said: str) -> None:
    (tmp_path / "above" / place).parent.mkdir(parents=True)
    write_base(tmp_path / "above" / place)
    with pytest.raises(LabError, match=said) as caught:
        Weights.read(tmp_path / "above")
    assert place in caught.value.fix


def test_an_adapter_in_the_base_s_place(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="it is an adapter"):
        Weights.read(write_adapter(tmp_path / "adapter"))


@pytest.mark.parametrize("architecture", ["Qwen3Model", "Qwen3ForSequenceClassification"])
def test_without_a_head_nothing_is_tied(tmp_path: Path, architecture: str) -> None:
    base = write_base(tmp_path / "base", headless(), tie_word_embeddings=True, architectures=[architecture])
    tensors = pairs() | {f"{EMBEDDING}.lora_embedding_A": ("F32", (4, 10)), f"{EMBEDDING}.lora_embedding_B": ("F32", (8, 4))}
    assert check(base, write_adapter(tmp_path / "adapter", tensors, target_modules=["q_proj", "down_proj", "embed_tokens"]))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("consolidated.safetensors", "format of Mistral's own tools"),
        ("pytorch_model-00001-of-00002.bin", "weights as Python pickles"),
        ("model-Q4_K_M.gguf", "GGUF is a quantised format"),
        ("nothing.txt", "holds no safetensors file"),
    ],
)
def test_a_base_in_another_format_is_named(base: Path, name: str, said: str) -> None:
    (base / "model.safetensors").rename(base / name)
    with pytest.raises(LabError, match=re.escape(said)):
        Weights.read(base)
