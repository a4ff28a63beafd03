"""Which tensor of a base a name means, where versions of transformers call the same module by several names.

transformers 4.52 moved the language model of models with pictures or sound from `model.layers` to `model.language_model.layers`, while
checkpoints on hubs keep their names, and transformers renames when it reads (5.19.0, `conversion_mapping.py`). The kinds of it are few:
`model`, `language_model` and the like come and go in front. A name is looked up as it is, then without its first part (GPT-2's own
checkpoint lacks `transformer.`), then with those parts left out on both sides, as long as that means one tensor only.

Covers: finding, and saying why nothing was found. Does not cover: converted tensors (experts that one version fuses).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..models.headers import Tensor

COMING_AND_GOING = ("model", "language_model", "llm", "transformer", "module")
NUMBERED = re.compile(r"(?P<stem>[^.]+)\.(?P<number>\d+)\.(?P<rest>.+)")


@dataclass
class Names:
    """The tensors of a base by every name that means them; `renamed` collects pairs (name asked for, name in the base)."""

    tensors: Mapping[str, Tensor]
    renamed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = Counter(map(_core, self.tensors))
        self.cores = {_core(name): tensor for name, tensor in self.tensors.items() if counts[_core(name)] == 1}
        self.places: dict[tuple[str, str], dict[int, Tensor]] = {}
        for name, tensor in self.tensors.items():
            if match := NUMBERED.search(name):
                self.places.setdefault((match["stem"], match["rest"]), {})[int(match["number"])] = tensor

    def find(self, name: str) -> Tensor | None:
        """The tensor that `name` means; None where there is none, or more than one."""
        straight = self.tensors.get(name) or self.tensors.get(name.partition(".")[2])
        if straight is not None:
            return straight
        tensor = self.cores.get(_core(name))
        if tensor is not None:
            self.renamed[name] = tensor.name
        return tensor

    def renamed_alike(self, name: str) -> bool:
        """Whether the base has the module in some layer or under another name."""
        match = NUMBERED.search(name)
        return match is not None and (match["stem"], match["rest"]) in self.places

    def why_not(self, name: str, shapes: Iterable[tuple[int, ...]]) -> tuple[str, str]:
        """(what, what it means) of a name that was not found; `shapes` are those that its tensor may have, () where it is not known.

        That it is another model is said only where numbers of layers or shapes say so.
        """
        match, known = NUMBERED.search(name), set(shapes)
        alike = self.places.get((match["stem"], match["rest"]), {}) if match else {}
        if match is None or not alike:
            return (
                "modules of the adapter are not in the base",
                "The base has no modules of these names: another architecture, or parts of its own.",
            )
        like = next(iter(alike.values()))
        if known and all(tensor.shape not in known for tensor in alike.values()):
            return "modules of the adapter are not in the base, and those most alike have other shapes", "It was trained on another model."
        if int(match["number"]) not in alike:
            layers = max(alike) + 1
            return (
                f"modules of the adapter lie in layers that the base has not (it has {layers})",
                "It was trained on another model, a deeper one.",
            )
        what = f"modules have other names in the base ({like.name} is most alike)"
        return what, "The shapes agree: another version of transformers, or a model around this one, named them."


def _core(name: str) -> str:
    parts = name.split(".")
    tower = "vision_tower" in parts
    return ".".join(part for part in parts if part not in COMING_AND_GOING and not (tower and part == "vision_model"))
