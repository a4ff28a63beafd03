"""Recordings: figures, saving, reading back."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from labkit.common.errors import LabError
from labkit.telemetry.recording import Recording, Track

GIB = 2**30


@pytest.fixture
def recording() -> Recording:
    track = Track("GPU 0", 80 * GIB, 400.0)
    for memory, power in ((1, 100.0), (3, None), (8, 300.0)):
        track.add(memory * GIB, power, None)
    return Recording("gpu", "NVIDIA A100", "in use", 1000.0, [track], [0.0, 1.0, 2.0], [(1.0, "ready")])


def test_least_mean_and_most(recording: Recording) -> None:
    memory = recording.spread("memory")
    assert memory is not None and (memory.least, memory.mean, memory.most) == (1, 4, 8)
    power = recording.spread("power")
    assert power is not None and power.mean == 200
    assert recording.spread("utilisation") is None


def test_energy_is_the_integral_over_the_samples_that_there_are(recording: Recording) -> None:
    assert recording.energy_joules() == (400.0, "sampled power x time")


def test_the_summary_names_machine_and_quantities(recording: Recording) -> None:
    assert "NVIDIA A100: 3 samples in 2 s" in str(recording)
    assert "memory, GiB" in str(recording) and "utilisation" not in str(recording)
    assert "<table>" in recording._repr_html_() and "kJ" in recording._repr_html_()
    assert recording.rows()[:2] == [("device", "quantity", "least", "mean", "most"), ("GPU 0", "memory, GiB", "1.0", "4.0", "8.0")]
    assert len({len(line) for line in str(recording).splitlines()[1:]}) == 1  # the numbers stand below each other


def test_json_brings_everything_back(recording: Recording, tmp_path: Path) -> None:
    path = recording.save(tmp_path / "new" / "run.json")
    assert Recording.load(path) == recording
    assert [one.name for one in path.parent.iterdir()] == ["run.json"]


def test_csv_has_a_row_for_every_sample(recording: Recording, tmp_path: Path) -> None:
    with recording.save(tmp_path / "run.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["power_watts"] for row in rows] == ["100.0", "", "300.0"]
    assert rows[2]["memory_bytes"] == str(8 * GIB) and rows[2]["unix_time"] == "1002.0"


def test_another_ending_is_refused_before_anything_is_written(recording: Recording, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="xlsx"):
        recording.save(tmp_path / "run.xlsx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"tracks": [], "marks": [], "more": 1})])
def test_a_file_of_another_kind_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(LabError, match="no recording"):
        Recording.load(tmp_path / "x.json")
