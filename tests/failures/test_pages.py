"""docs/troubleshooting.md and its twin are what the catalogue says."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.failures import pages

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("language", pages.FILES)
def test_the_page_is_what_the_catalogue_says(language: str) -> None:
    text = (DOCS / pages.FILES[language]).read_text(encoding="utf-8")
    assert text == pages.page(language), "write it anew: python -m labkit.failures.pages docs"


def test_every_section_has_rows() -> None:
    shown = pages.page("en")
    for part in shown.split("\n## ")[1:]:
        assert part.count("\n| ") >= 2, part.splitlines()[0]
