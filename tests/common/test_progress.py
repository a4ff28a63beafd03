"""Progress where output is a file: it begins, it ends, and what should stay stays."""

import pytest

from labkit.common.amounts import amount_text
from labkit.common.progress import Progress


def test_lines_stay_and_the_end_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("Loading", total=10, unit="s") as bar:
        bar.update(5, "half")
        bar.line("   5.0 s  half")
    captured = capsys.readouterr()
    assert captured.out == "   5.0 s  half\n" and captured.err.rstrip().endswith("· done")


def test_a_failure_is_not_shown_as_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError), Progress("Loading"):
        raise ValueError
    assert "stopped" in capsys.readouterr().err and "done" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("amount", "unit", "text"),
    [(16_392_000_000, "B", "16.39 GB"), (3_044_072, "B", "3.0 MB"), (12.4, "s", "12 s"), (3, "files", "3 files")],
)
def test_amounts(amount: float, unit: str, text: str) -> None:
    assert amount_text(amount, unit) == text
