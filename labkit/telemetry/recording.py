"""A recording of memory, power and utilisation over time: what a `Sampler` writes and `timeline` draws.

Covers: the samples, minimum/mean/maximum, energy, saving as JSON or CSV and reading back. Does not cover: taking samples.
Lists of one recording are equally long; a value that the device did not give is None. Used by notebooks 03 to 06.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from ..common import files, tables
from ..common.amounts import GIB
from ..common.errors import LabError

QUANTITIES = {"memory": ("memory, GiB", GIB), "power": ("power, W", 1.0), "utilisation": ("utilisation, %", 1.0)}


@dataclass
class Track:
    """One device (or one process tree) over time: memory in bytes, power in watts, utilisation in percent.

    `total_bytes` and `power_limit_watts` are the device's own bounds. `counter_joules` is what the card's energy counter
    rose by during the recording, None without one.
    """

    name: str
    total_bytes: int
    power_limit_watts: float | None = None
    memory: list[float | None] = field(default_factory=list)
    power: list[float | None] = field(default_factory=list)
    utilisation: list[float | None] = field(default_factory=list)
    counter_joules: float | None = None

    def add(self, memory: float | None, power: float | None, utilisation: float | None) -> None:
        """One more sample."""
        self.memory.append(memory)
        self.power.append(power)
        self.utilisation.append(utilisation)


@dataclass(frozen=True)
class Spread:
    """Least, mean and most of one quantity, in the unit of its column."""

    least: float
    mean: float
    most: float


@dataclass(repr=False)
class Recording:
    """Samples of all devices at common times. `seconds` counts from `started` (Unix time).

    `kind` is "gpu" or "cpu", `machine` a line that says what was measured and where, `memory_meaning` how.
    `marks` are (second, text) that a notebook set to say what happened then.
    """

    kind: str
    machine: str
    memory_meaning: str
    started: float
    tracks: list[Track]
    seconds: list[float] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.seconds)

    def spread(self, quantity: str, track: int = 0) -> Spread | None:
        """Least, mean and most of "memory" (GiB), "power" (W) or "utilisation" (%); None if there is no sample of it."""
        scale = QUANTITIES[quantity][1]
        values = [value / scale for value in getattr(self.tracks[track], quantity) if value is not None]
        return Spread(min(values), sum(values) / len(values), max(values)) if values else None

    def energy_joules(self, track: int = 0) -> tuple[float, str] | None:
        """(joules, where from): the card's counter, else the integral of the sampled power; None without power."""
        chosen = self.tracks[track]
        if chosen.counter_joules is not None:
            return chosen.counter_joules, "the card's energy counter"
        points = [(second, watts) for second, watts in zip(self.seconds, chosen.power, strict=True) if watts is not None]
        if len(points) < 2:
            return None
        area = sum((later - sooner) * (a + b) / 2 for (sooner, a), (later, b) in zip(points, points[1:], strict=False))
        return area, "sampled power x time"

    def rows(self) -> list[tuple[str, ...]]:
        """The summary as text, heading first; energy stands in the last column."""
        rows: list[tuple[str, ...]] = [("device", "quantity", "least", "mean", "most")]
        for index, track in enumerate(self.tracks):
            for quantity, (label, _) in QUANTITIES.items():
                spread = self.spread(quantity, index)
                if spread:
                    rows.append((track.name, label, f"{spread.least:.1f}", f"{spread.mean:.1f}", f"{spread.most:.1f}"))
            energy = self.energy_joules(index)
            if energy:
                rows.append((track.name, f"energy, kJ ({energy[1]})", "", "", f"{energy[0] / 1000:.2f}"))
        return rows

    def __str__(self) -> str:
        return f"{self._caption()}\n{tables.plain(self.rows())}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return tables.as_html(self.rows(), self._caption())

    def _caption(self) -> str:
        length = self.seconds[-1] if self.seconds else 0.0
        return f"{self.machine}: {len(self)} samples in {length:.0f} s"

    def save(self, path: str | Path) -> Path:
        """Write it as .json (everything, `Recording.load` reads it) or .csv (one row per sample and device).

        Written beside and renamed. Raises `LabError` for another ending.
        """
        target = Path(path)
        if target.suffix not in (".json", ".csv"):
            raise LabError(f"A recording is saved as .json or .csv, not as {target.name!r}.", "Choose one of the two endings.")
        if target.suffix == ".json":
            return files.write_text(target, json.dumps(asdict(self)) + "\n")
        with files.beside(target) as draft, draft.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(self._table())
        return target

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote as .json. Raises `LabError` for a file that is none of ours."""
        return files.load(path, cls.from_json, what="recording", writer="Recording.save")

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The recording that `save` wrote as `content`. Raises KeyError or TypeError for anything else."""
        tracks = [Track(**track) for track in content["tracks"]]
        return cls(**{**content, "tracks": tracks, "marks": [(second, text) for second, text in content["marks"]]})

    def _table(self) -> list[Sequence[object]]:
        head = ("unix_time", "second", "device", "memory_bytes", "power_watts", "utilisation_percent")
        rows: list[Sequence[object]] = [head]
        for index, second in enumerate(self.seconds):
            for track in self.tracks:
                values = (track.memory[index], track.power[index], track.utilisation[index])
                rows.append((round(self.started + second, 3), round(second, 3), track.name, *values))
        return rows
