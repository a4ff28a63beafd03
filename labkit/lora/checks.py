"""Whether an adapter fits its base, before anything is merged or served: config files, safetensors headers, and the adapter's numbers.

Covers: chat template, tokenizer and special tokens, vocabulary size, generation settings, types; through the modules beside this one
the base (`configs`, `quantised`), names and shapes (`pairing`, `patterns`), numbers (`numbers`, `residual`), weights trained beside the
adapter (`beside`), and whether an engine can serve it unmerged (`servable`). Does not cover: the base's numbers, quality (`compare`).
Used by notebook 06 as `labkit.lora.check`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..models.adapter import Adapter
from ..models.headers import Weights
from ..models.manifests import read as read_manifest
from . import bases, beside, companions, configs, numbers, patterns, quantised, residual
from .changes import Pairing
from .findings import BLOCKS, LOOK, CheckReport, Finding, Serving
from .pairing import pair
from .servable import VLLM, VLLM_DEFAULT_RANK, serving
from .tokenizers import Tokenizer, json_if_there

TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
QUANTISED_NAME = re.compile(r"(?i)(^|[-_./])(bnb|4bit|8bit|int4|int8|nf4|awq|gptq|gguf|fp8|w4a16|w8a8)($|[-_./])")
PACKED = ("base mismatch", "tensor type", "target modules", "layer kind", "empty")
"""Findings that a quantised base brings about by itself."""
KINDS_AGAINST = {
    "residual base": "it belongs to another base",
    "empty tensors": "its tensors are empty",
    "numbers": "its numbers are broken",
    "no such head": "its head belongs to another model",
    "base mismatch": "it does not fit this base",
    "untrained": "it changes nothing",
    "lora_alpha": "it changes nothing",
    "trained beside": "what was trained beside it is not read",
}
"""Blocking findings that keep any engine from serving the adapter rightly, whatever it reads."""


def check(
    base: Path | str, adapter: Path | str, *, max_lora_rank: int | None = None, engine: str | None = None, allow_pickle: bool = False
) -> CheckReport:
    """Hold the adapter folder against the base folder; the report is true when nothing blocks.

    `engine` ("vllm", "sglang") is the one that shall serve it beside the base, `max_lora_rank` that server's flag (vLLM's default is 16;
    alone it means vLLM): what that engine cannot serve then blocks; without them it is only told. Files in the adapter's folder that
    training wrote beside it (tokenizer, template, config) are compared with the base's; where there are none, there is nothing to
    compare. Reads config files, headers and the adapter's numbers (not a pickle's): a second for each GB of adapter; writes nothing.

    Raises `LabError` for folders that are no base or no adapter and for a pickle, `VerificationError` for damaged files.
    """
    started = time.monotonic()
    read = Adapter.read(adapter, allow_pickle=allow_pickle)
    engine = engine or (VLLM if max_lora_rank is not None else None)
    return look(Weights.read(base), read, started=started, max_lora_rank=max_lora_rank, engine=engine)[0]


def look(
    base: Weights, adapter: Adapter, *, started: float, max_lora_rank: int | None = None, engine: str | None = None
) -> tuple[CheckReport, Pairing]:
    """`check` for folders that were read already, with the pairing that it rests on."""
    pairing = pair(base, adapter)
    both = _Both(base, adapter)
    quantisation = list(quantised.findings(base))
    tensors = [*pairing.findings, *patterns.findings(base, adapter, pairing)]
    if quantisation:
        tensors = [finding for finding in tensors if finding.kind not in PACKED]
    own = [*numbers.findings(adapter), *residual.findings(adapter, pairing.changes), *beside.findings(adapter)]
    around = list(bases.findings(base, adapter))
    if any(finding.kind == "base names" for finding in around):
        tensors = [finding for finding in tensors if finding.kind not in bases.BY_NAMES]
    found = [
        *quantisation,
        *around,
        *own,
        *tensors,
        *configs.findings(base, adapter, both.trained, _names(base)),
        *companions.findings(base),
    ]
    found += [finding for rule in RULES for finding in rule(both)]
    engines = serving(adapter, _against(found))
    found += _serving(adapter, engines, engine, max_lora_rank, _instead(found))
    order = sorted(found, key=lambda finding: finding.severity == LOOK)
    return CheckReport(base.folder.name, adapter.folder.name, tuple(order), time.monotonic() - started, engines), pairing


def alone(adapter: Adapter, *, engine: str, max_lora_rank: int | None = None) -> CheckReport:
    """What can be told of an adapter without its base's weights: its numbers, what lies beside it, whether `engine` can serve it."""
    started = time.monotonic()
    found = [*numbers.findings(adapter), *beside.findings(adapter)]
    engines = serving(adapter, _against(found))
    found += _serving(adapter, engines, engine, max_lora_rank, "labkit.lora.check with the base's weights says whether it can be merged.")
    order = sorted(found, key=lambda finding: finding.severity == LOOK)
    return CheckReport("(no base)", adapter.folder.name, tuple(order), time.monotonic() - started, engines)


def _names(base: Weights) -> list[str]:
    """What the base may be called: its folder, its manifest's model and profile, what its own config says."""
    manifest = read_manifest(base.folder) or {}
    names = [base.folder.name, manifest.get("model"), manifest.get("profile"), base.config.get("_name_or_path")]
    return [str(name) for name in names if name]


def _against(found: Iterable[Finding]) -> tuple[str, ...]:
    """What no engine can serve rightly, whatever it reads."""
    return tuple(
        dict.fromkeys(KINDS_AGAINST[finding.kind] for finding in found if finding.kind in KINDS_AGAINST and finding.severity == BLOCKS)
    )


def _instead(found: Iterable[Finding]) -> str:
    """How the adapter can be served all the same, if it can."""
    blocking = [finding for finding in found if finding.severity == BLOCKS]
    if not blocking:
        return "Merge it (labkit.lora.merge) and serve the merged model."
    if all(finding.peft for finding in blocking):
        return 'Merge it (labkit.lora.merge(..., method="peft"), with the whole model in memory) and serve the merged model.'
    return "It cannot be merged as it is either: the other findings say why."


def _serving(adapter: Adapter, engines: Iterable[Serving], engine: str | None, limit: int | None, instead: str) -> Iterator[Finding]:
    """What keeps the engine that was asked about from serving the adapter; without one, what keeps each, to look at."""
    where = adapter.config_place
    for verdict in engines:
        if verdict.engine != (engine or verdict.engine):
            continue
        default = VLLM_DEFAULT_RANK if verdict.engine == VLLM and limit is None else limit
        if default is not None and adapter.highest_rank > default:
            whose = "" if limit else f", the default of {verdict.title}"
            what = f"rank {adapter.highest_rank} is above --max-lora-rank {default}{whose}"
            fix = f"Start the server with max_lora_rank={verdict.rank}, or merge."
            severity = BLOCKS if engine else LOOK
            yield Finding("rank above limit", what, where, "The server refuses to load it.", fix, severity)
        if reasons := [reason for reason in verdict.reasons if reason not in KINDS_AGAINST.values()]:  # those have a finding of their own
            what = f"{verdict.title} cannot serve it unmerged: {'; '.join(reasons)}"
            breaks = "The server refuses it, or answers as if a part of it were not there."
            yield Finding("not servable", what, where, breaks, instead, BLOCKS if engine else LOOK)


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
    quantised_there = both.trained.get("quantization_config") or QUANTISED_NAME.search(both.adapter.base_name)
    if quantised_there and not quantised.method(both.base):
        yield Finding(
            "trained on quantised",
            f"the adapter was trained on a quantised base ({both.adapter.base_name or 'its config.json says so'})",
            both.adapter.config_place,
            "It learnt to correct rounded weights; on the full weights its answers shift a little.",
            "Compare the task's scores before you serve it (labkit.lora.compare).",
            LOOK,
        )


RULES: tuple[Callable[[_Both], Iterator[Finding]], ...] = (_quantised, _tokens, _rows, _template, _generation, _types)
