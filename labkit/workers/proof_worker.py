"""Holds a merged model against its base with the adapter injected: a worker script for the vLLM environment, run by `comparing`.

Three questions, in this order, one model in memory at a time:
1. the weights: which were changed, by how much, and how far each is from the exact sum in fp32;
2. the same replies, given token by token (teacher forcing): do both put the same token first, how far are the logits apart;
3. the task: both rounds of the incidents, at each temperature.
Where the model is small the second question is asked again in fp32 arithmetic, which leaves nothing but the rounding of the
merged weights. Not imported by labkit.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from labkit.workers import offline_worker, transformers_side
from labkit.workers.side import Refused, answer, tell

BATCH = 8
CHUNK = 512
"""Tokens whose logits are held against each other at once: the vocabulary of a large model makes each 0.6 MB."""
MOST_KEPT = 4 * 2**30
"""Bytes of logits that are kept from one model to the next."""
BINS = tuple(10 ** (exponent / 4) for exponent in range(-24, 9))
"""Edges for the histogram of logit differences: four to a decade from 1e-6 to 100."""
MOST_SHOWN = 10
MANTISSA = {"torch.bfloat16": 8, "torch.float16": 11, "torch.float32": 24}
"""Significant bits of each type, the hidden one included."""


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Everything that `Comparison` shows, as plain numbers."""
    tell("progress", done=0, note="importing torch, transformers and PEFT")
    weights = Weights(Path(request["base"]), Path(request["merged"]))
    weights.compare()
    tell("progress", done=0, note="loading the base")
    tokenizer = transformers_side.load_tokenizer(request["base"])
    samples = _fitting(_samples(tokenizer, request["conversations"]), len(tokenizer))
    small = transformers_side.parameters(request["base"]) < transformers_side.SMALL
    told = offline_worker.Told((5 if small else 3) * len(samples) + 4 * len(request["temperatures"]) * len(request["dialogues"]))
    native = _Forced(samples, transformers_side.filler(tokenizer), told)
    exact = _Forced(samples, transformers_side.filler(tokenizer), told) if small else None

    model = transformers_side.load(request["base"])
    native.before(model, "the base alone")
    model = transformers_side.attach(model, request["adapter"])
    weights.hold_against(model)
    native.first(model, "adapter injected")
    replies = {"injected": _play(model, tokenizer, request, told)}
    del model
    if exact:
        exact.first(
            transformers_side.attach(transformers_side.load(request["base"], dtype="float32"), request["adapter"]), "adapter injected, fp32"
        )
    model = transformers_side.load(request["merged"])
    found = native.second(model, "merged")
    replies["merged"] = _play(model, tokenizer, request, told)
    del model
    return {
        "dtype": weights.dtype,
        "device": transformers_side.device_name(),
        "weights": weights.rows(),
        "astray": weights.astray,
        "forced": found.told(tokenizer),
        "base_agreement": native.base_agreement,
        "exact": exact.second(transformers_side.load(request["merged"], dtype="float32"), "merged, fp32").told(tokenizer)
        if exact
        else None,
        "replies": replies,
    }


def _samples(tokenizer: Any, conversations: Sequence[Sequence[dict[str, str]]]) -> list[transformers_side.Sample]:
    """One sample for every reply of the assistant's, after what stands before it."""
    return [
        transformers_side.encode(tokenizer, conversation[: number + 1])
        for conversation in conversations
        for number, message in enumerate(conversation)
        if message["role"] == "assistant" and number
    ]


def _fitting(samples: list[transformers_side.Sample], vocabulary: int) -> list[transformers_side.Sample]:
    """As many as their logits may be kept of, in order; says so when some are left out."""
    ends = list(accumulate(4 * vocabulary * len(sample.reply) for sample in samples))
    count = bisect(ends, MOST_KEPT)
    if count < len(samples):
        tell("line", text=f"Of {len(samples)} replies the first {count} are compared token by token: more logits would not fit the memory.")
    return samples[:count]


def _play(model: Any, tokenizer: Any, request: dict[str, Any], told: offline_worker.Told) -> list[list[offline_worker.Row]]:
    if not request["dialogues"]:
        return []
    return [offline_worker.play(model, tokenizer, request, temperature, told) for temperature in request["temperatures"]]


class Weights:
    """Question one. `compare` reads both folders, `hold_against` the exact sum from the model with the adapter injected."""

    def __init__(self, base: Path, merged: Path) -> None:
        self.base, self.merged = _tensors(base), _tensors(merged)
        self.kinds: dict[str, dict[str, Any]] = {}
        self.changed: set[str] = set()
        self.dtype = ""
        self.astray: list[str] = sorted(set(self.base) ^ set(self.merged))
        """Tensors that only one folder has; after `hold_against` also those changed without an adapter module."""

    def compare(self) -> None:
        """Tensor by tensor, on the GPU if there is one. Raises `Refused` for other shapes, and when nothing was changed at all."""
        device = transformers_side.device()
        shared = sorted(set(self.base) & set(self.merged))
        for number, name in enumerate(shared, start=1):
            before, after = self.base[name].read(device), self.merged[name].read(device)
            if before.shape != after.shape or before.dtype != after.dtype:
                raise Refused(
                    f"{name} is {_words(before)} in {self.base[name].file} and {_words(after)} in {self.merged[name].file}: "
                    "not the same model.",
                    "Compare a merged folder with the base and the adapter that it was merged from.",
                )
            self._note(name, before, after)
            tell("progress", done=0, note=f"comparing weights, {number} of {len(shared)} tensors")
        if not self.changed:
            raise Refused(
                f"The merge changed nothing: all {len(shared)} tensors of the merged folder are those of the base.",
                "Look at the adapter: lora_alpha 0, lora_B all zero, targets that match nothing, or a delta below the base's rounding; "
                "labkit.lora.check(base, adapter) names them.",
            )

    def _note(self, name: str, before: Any, after: Any) -> None:
        import torch

        row = self.kinds.setdefault(
            _kind(name), {"tensors": 0, "changed": 0, "elements": 0, "elements_changed": 0, "largest": 0.0, "ulps": None}
        )
        different = int(torch.count_nonzero(before != after))
        row["tensors"] += 1
        row["elements"] += before.numel()
        if different:
            self.changed.add(name)
            self.dtype = str(before.dtype).removeprefix("torch.")
            row["changed"] += 1
            row["elements_changed"] += different
            row["largest"] = max(row["largest"], float((after.float() - before.float()).abs().max()))

    def hold_against(self, model: Any) -> None:
        """How many units in the last place each merged weight lies from base + delta summed in fp32. Half a unit is one rounding."""
        import torch
        from peft.tuners.lora import LoraLayer
        from peft.utils import ModulesToSaveWrapper

        touched = {name for name in self.changed if name.endswith(".bias")} if model.peft_config["default"].bias != "none" else set()
        for path, module in model.base_model.model.named_modules():
            if isinstance(module, ModulesToSaveWrapper):  # trained whole
                touched |= {name for name in self.changed if name.startswith(f"{path}.")}
            if not isinstance(module, LoraLayer):
                continue
            name = f"{path}.weight"
            touched.add(name)
            # DoRA rescales what was added, and of an embedding PEFT rounds the delta before it is added
            plain = not module.use_dora.get("default") and not isinstance(module.get_base_layer(), torch.nn.Embedding)
            if plain and name in self.merged:
                row = self.kinds[_kind(name)]
                row["ulps"] = max(row["ulps"] or 0.0, self._ulps(name, module))
        if touched & self.changed:  # else the names of module and tensor differ in this architecture, and nothing can be said
            self.astray += sorted(self.changed - touched)

    def _ulps(self, name: str, module: Any) -> float:
        import torch

        with torch.inference_mode():
            exact = module.get_base_layer().weight.float() + module.get_delta_weight("default").float()
            merged = self.merged[name].read(str(exact.device))
            apart = (merged.float() - exact).abs()
            return float(torch.ldexp(apart, MANTISSA[str(merged.dtype)] - torch.frexp(exact).exponent).max())

    def rows(self) -> list[dict[str, Any]]:
        """One row for each kind of module, those that changed first."""
        rows = [{"kind": kind, **row} for kind, row in self.kinds.items()]
        return sorted(rows, key=lambda row: (row["elements_changed"] == 0, row["kind"]))


class _Tensor:
    """One tensor of a safetensors file, read when asked for."""

    def __init__(self, file: Path, name: str) -> None:
        self.file, self.name = file, name

    def read(self, device: str) -> Any:
        from safetensors import safe_open

        with safe_open(self.file, framework="pt", device=device) as stream:
            return stream.get_tensor(self.name)


def _tensors(folder: Path) -> dict[str, _Tensor]:
    from safetensors import safe_open

    found: dict[str, _Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stream:
            found |= {name: _Tensor(file, name) for name in stream.keys()}  # noqa: SIM118 - no mapping
    return found


def _kind(name: str) -> str:
    """ "model.layers.3.self_attn.q_proj.weight" -> "q_proj"."""
    parts = name.split(".")
    return parts[-2] if len(parts) > 1 else name


def _words(tensor: Any) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


class _Forced:
    """Question two: the logits of the model that is asked first are kept (on the CPU, in its own type) for the second.

    They are held against each other where the second model is: a large vocabulary makes that slow on a processor.
    """

    def __init__(self, samples: list[transformers_side.Sample], filling: int, told: offline_worker.Told) -> None:
        self.samples, self.filling, self.told = samples, filling, told
        self.base_tops: list[Any] = []
        self.kept: list[Any] = []
        self.base_agreement = 0.0

    def before(self, model: Any, name: str) -> None:
        """The base's own first choices: what agreement is without the adapter."""
        self.base_tops = [logits.argmax(-1).cpu() for logits, _ in self._logits(model, name)]

    def first(self, model: Any, name: str) -> None:
        self.kept = [logits.cpu() for logits, _ in self._logits(model, name)]
        if self.base_tops:
            same = [int((logits.argmax(-1) == top).sum()) for logits, top in zip(self.kept, self.base_tops, strict=True)]
            self.base_agreement = sum(same) / sum(len(top) for top in self.base_tops)

    def second(self, model: Any, name: str) -> Difference:
        found = Difference()
        for kept, (logits, labels) in zip(self.kept, self._logits(model, name), strict=True):
            for part in zip(kept.split(CHUNK), logits.split(CHUNK), labels.split(CHUNK), strict=True):
                with transformers_side.memory("Comparing logits"):
                    found.add(*(tensor.to(logits.device) for tensor in part))
        return found

    def _logits(self, model: Any, name: str) -> Iterator[tuple[Any, Any]]:
        """(logits, labels) of a batch's reply tokens: shapes (tokens, vocabulary) and (tokens)."""
        import torch

        for start in range(0, len(self.samples), BATCH):
            part = self.samples[start : start + BATCH]
            self.told.now(0, f"{name}: replies given token by token")
            with torch.inference_mode(), transformers_side.memory("Comparing logits"):
                logits, labels = transformers_side.reply_logits(model, part, self.filling)
                chosen = labels != transformers_side.IGNORED
                found = logits[chosen], labels[chosen]
            self.told.done += len(part)
            yield found


class Difference:
    """Sums over the reply tokens of two models' logits."""

    def __init__(self) -> None:
        self.tokens = self.same = 0
        self.largest = self.mean = self.divergence = 0.0
        self.histogram = [0] * (len(BINS) + 1)
        self.apart: list[dict[str, Any]] = []
        """Where the first choices differ: the token that was given, both choices, and the first model's margin between them."""

    def add(self, first: Any, second: Any, labels: Any) -> None:
        import torch

        first, second = first.float(), second.float()
        distance = (first - second).abs()
        self.tokens += len(labels)
        self.largest = max(self.largest, float(distance.max()))
        self.mean += float(distance.mean(-1).sum())
        ours, theirs = first.log_softmax(-1), second.log_softmax(-1)
        self.divergence += float((ours.exp() * (ours - theirs)).sum())
        bins = torch.bucketize(distance.amax(-1), torch.tensor(BINS, device=distance.device), right=True)
        for index, count in zip(*(each.tolist() for each in bins.unique(return_counts=True)), strict=True):
            self.histogram[index] += count
        tops, others = first.argmax(-1), second.argmax(-1)
        self.same += int((tops == others).sum())
        for place in (tops != others).nonzero().flatten().tolist():
            margin = float(first[place, tops[place]] - first[place, others[place]])
            self.apart.append({"given": int(labels[place]), "first": int(tops[place]), "second": int(others[place]), "margin": margin})

    def told(self, tokenizer: Any) -> dict[str, Any]:
        """As plain numbers; the disagreements with the widest margin first, as text."""
        widest = sorted(self.apart, key=lambda one: -one["margin"])
        shown = [
            {name: tokenizer.decode([one[name]]) for name in ("given", "first", "second")} | {"margin": one["margin"]}
            for one in widest[:MOST_SHOWN]
        ]
        return {
            "tokens": self.tokens,
            "agreement": self.same / max(1, self.tokens),
            "largest": self.largest,
            "mean": self.mean / max(1, self.tokens),
            "divergence": self.divergence / max(1, self.tokens),
            "edges": list(BINS),
            "counts": self.histogram,
            "widest_margin": widest[0]["margin"] if widest else 0.0,
            "apart": shown,
        }


if __name__ == "__main__":
    answer(work)
