"""A LoRA adapter as its folder says it is: adapter_config.json, and the headers of its safetensors file.

Covers: reading, the scale of each module (alpha, rank, their patterns, rsLoRA), which modules the config names, what the
config asks for that a merge does not do. Does not cover: which tensor of a base each belongs to (`lora.pairing`),
files around it such as tokenizer and template (`lora.checks`). Matching of names is PEFT's (0.21.2, `check_target_module_exists` and
`get_pattern_key`), so that what PEFT leaves out is known here too. Used by notebook 06.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..common.errors import LabError, VerificationError
from .adapter_folders import CONFIG, PICKLE, WEIGHTS, no_weights, not_of_peft, require_adapter
from .headers import Tensor, read_header, read_json

PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Ways of initialising that leave the base's weights alone; PiSSA, OLoRA, CorDA and LoftQ change them when PEFT loads."""
PEFT_MERGES = (
    *("target_parameters", "trainable_token_indices", "lora_bias", "use_bdlora", "kasa_config", "monteclora_config", "velora_config"),
    "init_lora_weights",
)
"""Settings that PEFT's own merge (0.21.2) does and labkit's does not; aLoRA, Arrow, QALoRA and replicated layers it refuses as well."""
REPRODUCED = ("pissa", "olora")
"""Of the ways of initialising that change the base those that PEFT does again, exactly, when it loads: "pissa_niter_16" takes a random
decomposition each time, CorDA needs the data of the training, LoftQ quantises."""
HEADS = ("score", "classifier", "classification_head", "qa_outputs", "v_head", "value_head")
"""What transformers and TRL call the heads of classifiers and reward models."""
DEFAULT_RANK = 8
"""PEFT's, where adapter_config.json has no r."""
PROMPTS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT", "CARTRIDGE")
"""Values of peft_type that train tokens or states in front of the prompt, which no weight of the base can hold."""
NOT_MERGED = {
    "layer_replication": "layers of the base are used several times, which its weights cannot hold",
    "target_parameters": "parameters without a module of their own (fused experts) are trained",
    "trainable_token_indices": "single rows of the embedding are trained",
    "lora_bias": "lora_B has a bias of its own",
    "alora_invocation_tokens": "aLoRA acts only after its invocation tokens, which weights cannot express",
    "arrow_config": "Arrow routes between adapters while it runs",
    "use_bdlora": "BD-LoRA's matrices are block-diagonal",
    "use_qalora": "QALoRA's matrices belong to a quantised base",
    "kasa_config": "KaSA cuts singular values out of the base",
    "monteclora_config": "MonteCLoRA samples while it trains",
    "velora_config": "VeLoRA's projections are not plain LoRA",
    "megatron_config": "the layers are Megatron's parallel ones",
}
"""Settings of adapter_config.json that `merge` refuses by name, and why."""


@dataclass(frozen=True)
class Adapter:
    """An adapter folder. `tensors` is empty for a pickle that was asked for: only a worker can read it."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    weights: Path

    @classmethod
    def read(cls, folder: Path | str, *, allow_pickle: bool = False) -> Self:
        """Read the adapter in `folder`; its numbers are left unread.

        `allow_pickle` accepts an adapter_model.bin where there is no safetensors file. Raises `LabError` for a folder that is no
        adapter, and for a pickle that was not asked for; `VerificationError` for a cut-off or damaged file.
        """
        folder = Path(folder).expanduser().absolute()
        require_adapter(folder)
        config = read_json(folder / CONFIG)
        if (folder / WEIGHTS).is_file():
            tensors, weights = _header(folder / WEIGHTS), folder / WEIGHTS
        elif not (folder / PICKLE).is_file():
            raise no_weights(folder)
        elif not allow_pickle:
            raise LabError(
                f"{folder / PICKLE} is a Python pickle: reading one can run any program that its author put in.",
                f"Have it saved as {WEIGHTS}. If you trust whoever made it: allow_pickle=True (labkit then reads it with torch's "
                "weights_only, which lets only tensors through).",
            )
        else:
            tensors, weights = {}, folder / PICKLE
        if wrong := not_of_peft(config):
            raise LabError(f"{folder / CONFIG}: {wrong}", "Take the file that PEFT's save_pretrained wrote with the weights.")
        return cls(folder, config, tensors, weights)

    @property
    def pickled(self) -> bool:
        """Whether the weights lie in a pickle."""
        return self.weights.suffix == ".bin"

    @property
    def config_place(self) -> str:
        """Its settings as findings name them: "adapter/adapter_config.json"."""
        return f"{self.folder.name}/{CONFIG}"

    @property
    def peft_type(self) -> str:
        """ "LORA", "IA3" and so on."""
        return str(self.config.get("peft_type") or "LORA").upper()

    @property
    def rank(self) -> int:
        """The rank where no pattern matches; PEFT's default where the config leaves it out."""
        return int(self.config.get("r", DEFAULT_RANK) or 0)

    @property
    def highest_rank(self) -> int:
        """The largest rank of any module: what a server's --max-lora-rank has to allow."""
        return max([self.rank, *(int(rank) for rank in (self.config.get("rank_pattern") or {}).values())])

    @property
    def base_name(self) -> str:
        """What the adapter says it was trained on: a hub's id or a folder; "" where it does not say."""
        return str(self.config.get("base_model_name_or_path") or "")

    @property
    def dora(self) -> bool:
        """Whether it is weight-decomposed (DoRA): rows are rescaled to a learnt magnitude."""
        return bool(self.config.get("use_dora"))

    @property
    def saved_modules(self) -> tuple[str, ...]:
        """`modules_to_save`: modules that were trained whole."""
        names = self.config.get("modules_to_save") or ()
        return (names,) if isinstance(names, str) else tuple(names)

    @property
    def saved_heads(self) -> bool:
        """Whether the file brings a classifier's head that was trained whole; not known of a pickle, which counts as yes."""
        return self.pickled or any(segment in HEADS for name in self.tensors for segment in name.split("."))

    def rank_of(self, module: str) -> int:
        """The rank of `module` (its full name in the base, "model.layers.0.self_attn.q_proj")."""
        return int(_by_pattern(self.config.get("rank_pattern") or {}, module, self.rank))

    def alpha_of(self, module: str) -> float:
        """lora_alpha of `module`."""
        return float(_by_pattern(self.config.get("alpha_pattern") or {}, module, self.config.get("lora_alpha") or 0))

    def scale_of(self, module: str) -> float:
        """What B @ A is multiplied by: alpha / rank, with rsLoRA alpha / sqrt(rank) (arXiv 2312.03732)."""
        rank = self.rank_of(module)
        return self.alpha_of(module) / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def targets(self, module: str) -> bool:
        """Whether the config means `module`, by PEFT's rules; tensors of other modules PEFT drops without an error."""
        if _named(self.config.get("exclude_modules"), module):
            return False
        if any(re.match(rf"(^|.*\.){name}($|\..*)", module) for name in self.saved_modules):
            return False
        targets = self.config.get("target_modules")
        whole_name = isinstance(targets, str) or module in (targets or ())
        return _named(targets, module) and (whole_name or self._layer_counts(module))

    def idle_targets(self, modules: Iterable[str]) -> list[str]:
        """The entries of `target_modules` that match none of `modules`."""
        return self._idle("target_modules", modules)

    def idle_patterns(self, modules: Iterable[str]) -> list[str]:
        """The keys of alpha_pattern and rank_pattern that match none of `modules`, as "alpha_pattern k_projj"."""
        names = list(modules)
        return [
            f"{setting} {pattern}"
            for setting in ("alpha_pattern", "rank_pattern")
            for pattern in self.config.get(setting) or {}
            if not any(_matches(pattern, name) for name in names)
        ]

    def idle_excludes(self, modules: Iterable[str]) -> list[str]:
        """The entries of `exclude_modules` that match none of `modules`."""
        return self._idle("exclude_modules", modules)

    def _idle(self, setting: str, modules: Iterable[str]) -> list[str]:
        given, names = self.config.get(setting), list(modules)
        entries: list[str | list[str]] = [given] if isinstance(given, str) else [[entry] for entry in given or ()]
        return [entry if isinstance(entry, str) else entry[0] for entry in entries if not any(_named(entry, name) for name in names)]

    def idle_layers(self, layers: Iterable[int]) -> list[int]:
        """The numbers in `layers_to_transform` that are none of `layers`."""
        wanted, there = self.config.get("layers_to_transform"), set(layers)
        return [layer for layer in ([wanted] if isinstance(wanted, int) else wanted or ()) if layer not in there]

    def refused(self) -> dict[str, str]:
        """Settings that `merge` does not do, with the reason: {} for an adapter that it takes."""
        reasons = {name: why for name, why in NOT_MERGED.items() if self.config.get(name)}
        if self.peft_type != "LORA":
            reasons["peft_type"] = f"{self.peft_type} is not LoRA"
        init = self.config.get("init_lora_weights", True)
        if isinstance(init, str) and init.lower() not in PLAIN_INITS:
            again = "" if self.reproduced else ", which PEFT cannot do again as the training did it"
            reasons["init_lora_weights"] = f'"{init}" changes the base\'s weights when PEFT loads the adapter{again}'
        return reasons

    @property
    def reproduced(self) -> bool:
        """Whether PEFT, where it changes the base as it loads the adapter, changes it as the training did."""
        return str(self.config.get("init_lora_weights")).lower() in REPRODUCED

    def _layer_counts(self, module: str) -> bool:
        """`layers_to_transform`: whether the layer number in the module's name is one of them."""
        layers = self.config.get("layers_to_transform")
        if layers is None or layers == []:
            return True
        names = self.config.get("layers_pattern") or []
        patterns = [rf"(?:^|.*?\.){name}\.(\d+)\." for name in ([names] if isinstance(names, str) else names)]
        match = next((match for pattern in patterns or [r".*?\.[^.]*\.(\d+)\."] if (match := re.match(pattern, module))), None)
        return match is not None and int(match.group(1)) in ([layers] if isinstance(layers, int) else layers)


def _named(names: str | Iterable[str] | None, module: str) -> bool:
    """A string is a regular expression for the whole name ("all-linear": everything but the head), a list holds endings."""
    if not names:
        return False
    if isinstance(names, str):
        if names.lower() == "all-linear":
            return module.split(".")[-1] not in ("lm_head", "embed_tokens", "wte", "wpe")
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    return next((value for pattern, value in patterns.items() if _matches(pattern, module)), default)


def _matches(pattern: str, module: str) -> bool:
    return re.match(rf"(.*\.)?({pattern})$", module) is not None


def _header(path: Path) -> dict[str, Tensor]:
    try:
        return read_header(path)
    except (ValueError, OSError) as error:
        raise VerificationError(f"{path} cannot be read as safetensors: {error}.", "Copy the adapter again, or train it again.") from None
