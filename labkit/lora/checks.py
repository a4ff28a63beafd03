"""Whether an adapter fits its base, before anything is merged or served: config files and safetensors headers only.

Covers: chat template, RoPE, tokenizer and special tokens, vocabulary size, generation settings, types, target modules, rank
against a server's --max-lora-rank, lora_alpha 0, another base, quantised bases, what vLLM does not hot-load.
Does not cover: the numbers (a lora_B of zeros shows only when merged: `merge` refuses it), quality (`compare`).
Used by notebook 06 as `labkit.lora.check`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..models.adapter import Adapter
from ..models.headers import Weights
from ..models.manifests import read as read_manifest
from .findings import LOOK, CheckReport, Finding
from .pairing import Pairing, pair
from .tokenizers import Tokenizer, json_if_there

SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
ROPE = ("rope_scaling", "rope_theta", "rope_parameters", "max_position_embeddings")
TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
QUANTISED_NAME = re.compile(r"(?i)(^|[-_./])(bnb|4bit|8bit|int4|int8|nf4|awq|gptq|gguf|fp8|w4a16|w8a8)($|[-_./])")
VLLM_SAVED = ("classifier", "score")
SERVED_FIX = "Merge it (labkit.lora.merge) and serve the merged model."


def check(base: Path | str, adapter: Path | str, *, max_lora_rank: int | None = None, allow_pickle: bool = False) -> CheckReport:
    """Hold the adapter folder against the base folder; the report is true when nothing blocks.

    `max_lora_rank` is the server's flag (vLLM's default is 16): with it, what vLLM does not hot-load is reported too. Files in the
    adapter's folder that training wrote beside it (tokenizer, template, config) are compared with the base's; where there are
    none, there is nothing to compare. Reads config files and headers only: well under 2 s for an 8B model; writes nothing.

    Raises `LabError` for folders that are no base or no adapter and for a pickle, `VerificationError` for damaged files.
    """
    started = time.monotonic()
    return look(Weights.read(base), Adapter.read(adapter, allow_pickle=allow_pickle), started=started, max_lora_rank=max_lora_rank)[0]


def look(base: Weights, adapter: Adapter, *, started: float, max_lora_rank: int | None = None) -> tuple[CheckReport, Pairing]:
    """`check` for folders that were read already, with the pairing that it rests on."""
    pairing = pair(base, adapter)
    both = _Both(base, adapter)
    findings = [*pairing.findings, *(finding for rule in RULES for finding in rule(both))]
    if max_lora_rank is not None:
        findings += _serving(both, max_lora_rank)
    order = sorted(findings, key=lambda finding: finding.severity == LOOK)
    return CheckReport(base.folder.name, adapter.folder.name, tuple(order), time.monotonic() - started), pairing


@dataclass(frozen=True)
class _Both:
    base: Weights
    adapter: Adapter

    @cached_property
    def trained(self) -> Mapping[str, Any]:
        """The config.json that training put beside the adapter; {} without one."""
        return json_if_there(self.adapter.folder / "config.json")

    @cached_property
    def tokenizers(self) -> tuple[Tokenizer, Tokenizer]:
        """The base's and the adapter's."""
        return Tokenizer(self.base.folder), Tokenizer(self.adapter.folder)


def _template(both: _Both) -> Iterator[Finding]:
    ours, theirs = both.tokenizers
    if theirs.template and ours.template != theirs.template:
        yield Finding(
            "chat template",
            "the adapter was trained with another chat template than the base's"
            if ours.template
            else "only the adapter has a chat template",
            f"{both.base.folder.name} and {both.adapter.folder.name}: chat_template",
            "Served with the base's, prompts look different from those it was trained on: format and answers get worse, without an error.",
            'Serve with --chat-template of the adapter, or merge with tokenizer="adapter".',
            LOOK,
        )


def _rope(both: _Both) -> Iterator[Finding]:
    if not both.trained:
        return
    ours, theirs = (_rope_of(config) for config in (both.base.config, both.trained))
    differ = [f"{name} {theirs.get(name)} against {ours.get(name)}" for name in sorted(ours | theirs) if ours.get(name) != theirs.get(name)]
    if differ:
        yield Finding(
            "rope",
            f"RoPE differs: {'; '.join(differ)}",
            "config.json of both",
            "Positions are turned by other angles than in training: long prompts degrade first.",
            "Use the base whose config.json has the RoPE of the training.",
        )


def _rope_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The RoPE settings in one form: transformers 5 keeps in `rope_parameters` what 4 kept in two places."""
    part = config.get("text_config")
    config = part if isinstance(part, dict) else config
    rows: dict[str, Any] = {name: config[name] for name in ("rope_theta", "max_position_embeddings") if config.get(name) is not None}
    for name in ("rope_scaling", "rope_parameters"):
        rows |= {key: value for key, value in (config.get(name) or {}).items() if value is not None}
    older = rows.pop("type", None)
    rows["rope_type"] = rows.get("rope_type") or older or "default"
    return rows


def _tokens(both: _Both) -> Iterator[Finding]:
    ours, theirs = both.tokenizers
    moved = [token for token, number in theirs.ids.items() if ours.ids.get(token, number) != number]
    if ours.ids and moved:
        yield Finding(
            "tokenizer",
            f"{len(moved)} tokens have other ids in the adapter's tokenizer, first {moved[0]!r}",
            "tokenizer.json of both",
            "The same text becomes other tokens than in training.",
            "Use the base that the adapter's tokenizer belongs to.",
        )
    added = [token for token in theirs.ids if token not in ours.ids] if ours.ids else []
    if added:
        yield Finding(
            "added tokens",
            f"the adapter's tokenizer has {len(added)} tokens that the base's lacks, first {added[0]!r}",
            f"{both.adapter.folder.name}/tokenizer.json",
            "With the base's tokenizer they fall into pieces; their embeddings were trained only if modules_to_save says so.",
            'Merge with tokenizer="adapter", or train without added tokens.',
            LOOK,
        )
    differ = [
        f"{name} {theirs.special[name]!r} against {token!r}"
        for name, token in ours.special.items()
        if theirs.special.get(name, token) != token
    ]
    if differ:
        yield Finding(
            "special tokens",
            f"special tokens differ: {'; '.join(differ)}",
            "tokenizer_config.json of both",
            "An end token that is not the trained one lets answers run on, or cuts them.",
            'Serve or merge with the adapter\'s tokenizer (tokenizer="adapter"), and check eos_token_id in generation_config.json.',
            LOOK,
        )


def _rows(both: _Both) -> Iterator[Finding]:
    """Every id of a tokenizer needs a row of the embedding."""
    rows = next((tensor.shape[0] for name, tensor in both.base.tensors.items() if name.endswith(("embed_tokens.weight", "wte.weight"))), 0)
    size = both.base.text_config.get("vocab_size")
    if rows and isinstance(size, int) and size != rows:
        what, where = f"config.json says {size} tokens, the embedding has {rows} rows", f"{both.base.folder.name}/config.json"
        yield Finding(
            "vocabulary", what, where, "Engines refuse the folder or read past its rows.", "Put the number of rows into vocab_size."
        )
    for tokenizer in both.tokenizers:
        highest = max(tokenizer.ids.values(), default=-1)
        if rows and highest >= rows:
            yield Finding(
                "vocabulary",
                f"the tokenizer has ids up to {highest}, the embedding only {rows} rows",
                f"{tokenizer.folder.name}/tokenizer.json",
                "A prompt with such a token crashes the engine.",
                "Resize the base's embeddings before training, or train without added tokens.",
            )


def _generation(both: _Both) -> Iterator[Finding]:
    ours, theirs = (json_if_there(folder / "generation_config.json") for folder in (both.base.folder, both.adapter.folder))
    ignored = ("transformers_version", "_from_model_config")
    differ = [name for name in sorted(theirs) if name not in ignored and theirs[name] != ours.get(name)]
    if differ:
        yield Finding(
            "generation config",
            f"generation settings differ: {', '.join(f'{name} {theirs[name]} against {ours.get(name)}' for name in differ)}",
            "generation_config.json of both",
            "Engines take sampling defaults and end tokens from it; the base's count.",
            "Send the settings with each request, or copy the adapter's file.",
            LOOK,
        )


def _types(both: _Both) -> Iterator[Finding]:
    config = both.base.text_config
    declared = str(config.get("dtype") or config.get("torch_dtype") or both.base.config.get("torch_dtype") or "").removeprefix("torch.")
    stored = sorted({TYPES.get(tensor.dtype, tensor.dtype) for tensor in both.base.tensors.values()})
    if declared and stored != [declared] and set(stored) <= set(TYPES.values()):
        yield Finding(
            "dtype",
            f"config.json says {declared}, the tensors are {' and '.join(stored)}",
            both.base.folder.name,
            "Engines cast on loading; a merge keeps each tensor's own type, PEFT casts first and adds after.",
            "Nothing, if you know why; else save the base in one type.",
            LOOK,
        )
    trained = str(both.trained.get("dtype") or both.trained.get("torch_dtype") or "").removeprefix("torch.")
    if declared and trained and trained != declared:
        what = f"trained with the base in {trained}, served in {declared}"
        fix = "Compare the task's scores (labkit.lora.compare)."
        yield Finding("dtype", what, "config.json of both", "Activations are rounded otherwise than in training.", fix, LOOK)


def _quantised(both: _Both) -> Iterator[Finding]:
    if both.base.config.get("quantization_config"):
        method = (both.base.config["quantization_config"] or {}).get("quant_method", "")
        yield Finding(
            "quantised base",
            f"the base is quantised ({method or 'quantization_config'})",
            f"{both.base.folder.name}/config.json",
            "A delta added to quantised weights is lost in their rounding.",
            "Merge into the base in bf16, and quantise the result.",
        )
    quantised = both.trained.get("quantization_config") or QUANTISED_NAME.search(both.adapter.base_name)
    if quantised:
        yield Finding(
            "trained on quantised",
            f"the adapter was trained on a quantised base ({both.adapter.base_name or 'its config.json says so'})",
            both.adapter.config_place,
            "It learnt to correct rounded weights; on the full weights its answers shift a little.",
            "Compare the task's scores before you serve it (labkit.lora.compare).",
            LOOK,
        )


def _same_base(both: _Both) -> Iterator[Finding]:
    where = both.adapter.config_place
    differ = [
        f"{name} {both.trained[name]} against {both.base.config.get(name)}"
        for name in (*SIZES, "vocab_size", "model_type")
        if name in both.trained and both.trained[name] != both.base.config.get(name)
    ]
    if differ:
        breaks, fix = "It was trained on another model.", "Name the base that the adapter was trained on."
        yield Finding("base mismatch", f"the model it was trained on differs: {'; '.join(differ)}", "config.json of both", breaks, fix)
    name = both.adapter.base_name
    if not name:
        what, fix = "the adapter does not say which base it was trained on", "Put base_model_name_or_path into its adapter_config.json."
        yield Finding("base name", what, where, "Only shapes can be held against the base, and kin of one size share them.", fix, LOOK)
    elif not _names(both.base) & {_last(name)} and Path(name).expanduser().absolute() != both.base.folder:
        what = f"the adapter names {name} as its base"
        fix = f"If {both.base.folder.name} is that model, nothing; else name the right folder."
        yield Finding(
            "base name", what, where, "On another model of the same shape it merges without an error, and the result is worse.", fix, LOOK
        )


def _names(base: Weights) -> set[str]:
    """What the base may be called: its folder, its manifest's model and profile, what its own config says."""
    manifest = read_manifest(base.folder) or {}
    names = [base.folder.name, manifest.get("model"), manifest.get("profile"), base.config.get("_name_or_path")]
    return {_last(str(name)) for name in names if name}


def _last(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.rstrip("/").rpartition("/")[2].lower())


def _serving(both: _Both, limit: int) -> Iterator[Finding]:
    """What vLLM refuses to hot-load (0.32.0, `vllm/lora/peft_helper.py`)."""
    config, where = both.adapter.config, both.adapter.config_place
    if both.adapter.highest_rank > limit:
        what = f"rank {both.adapter.highest_rank} is above --max-lora-rank {limit}"
        fix = f"Start the server with max_lora_rank={_next_rank(both.adapter.highest_rank)}, or merge."
        yield Finding("rank above limit", what, where, "The server refuses to load it.", fix)
    unsupported = [f"modules_to_save {name}" for name in both.adapter.saved_modules if name not in VLLM_SAVED]
    unsupported += ["DoRA"] if both.adapter.dora else []
    unsupported += [f"bias {config['bias']}"] if config.get("bias", "none") != "none" else []
    if unsupported:
        yield Finding(
            "not servable", f"vLLM does not hot-load: {', '.join(unsupported)}", where, "The server refuses to load it.", SERVED_FIX
        )


def _next_rank(rank: int) -> int:
    return next((allowed for allowed in (1, 8, 16, 32, 64, 128, 256, 320, 512) if allowed >= rank), rank)


RULES: tuple[Callable[[_Both], Iterator[Finding]], ...] = (
    _same_base,
    _quantised,
    _rope,
    _tokens,
    _rows,
    _template,
    _generation,
    _types,
)
