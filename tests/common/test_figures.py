"""A picture shows itself; the strokes that several figures share."""

from __future__ import annotations

from pathlib import Path

import drawn
import pytest

from labkit.common import figures
from labkit.common.figures import COLOURS, Picture


def test_a_picture_shows_itself_and_can_be_saved(tmp_path: Path) -> None:
    picture = Picture(drawn.PNG, 'a "picture" of <this>')
    assert picture._repr_png_() == drawn.PNG
    assert 'alt="a &quot;picture&quot; of &lt;this&gt;"' in picture._repr_html_()
    assert picture.save(tmp_path / "x.png").read_bytes() == drawn.PNG


def test_a_finished_figure_has_the_look_of_the_kit_and_its_caption() -> None:
    figure = figures.new_figure(4.0, 3.0)
    axes = figure.subplots()
    axes.plot([1, 2], [3, 4], label="a")
    figures.title(axes, "what is drawn")
    figures.legend(axes)
    figures.caption(figure, "some words " * 10, 40)
    picture = figures.finish(figure, "words")
    assert drawn.panels(picture) == [axes] and drawn.title(axes) == "what is drawn" and drawn.legend(axes) == ["a"]
    assert drawn.caption(picture) == ("some words " * 10).strip() and max(map(len, figure.get_supxlabel().splitlines())) <= 40
    assert not axes.spines["top"].get_visible() and axes.xaxis.get_gridlines()[0].get_visible()
    assert repr(picture) == "<picture: words>" and picture == Picture(picture.png, "words")


def test_bars_stand_in_groups_and_shares_become_percent() -> None:
    figure = figures.new_figure(4.0, 3.0)
    axes = figure.subplots()
    figures.draw_bars(axes, ["hits", "misses"], [("one", [0.5, 0.0]), ("other", [1.0, 0.25])])
    one, other = axes.containers
    assert [bar.get_height() for bar in one] == [50, 0] and [bar.get_height() for bar in other] == [100, 25]
    assert one[0].get_x() < other[0].get_x() < one[1].get_x() and one.get_label() == "one"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["hits", "misses"]
    assert drawn.notes(axes) == ["50", "0", "100", "25"] and axes.get_ylim() == (0, 122)


def test_a_logarithmic_axis_is_labelled_sparsely() -> None:
    figure = figures.new_figure(4.0, 3.0)
    axes = figure.subplots()
    axes.plot([1, 2], [0.03, 4.0], color=COLOURS[0])
    figures.sparse_log(axes)
    figures.finish(figure, "")
    assert axes.get_yscale() == "log"
    assert {label.get_text() for label in axes.get_yticklabels()} >= {"0.05", "0.1", "0.2", "0.5", "1", "2"}
    assert {label.get_text() for label in axes.get_yticklabels(minor=True)} <= {""}


@pytest.mark.parametrize(("text", "expected"), [("a b c", "a b\nc"), ("an-unbroken-word", "an-unbroken-word"), ("", "")])
def test_lines_break_between_words(text: str, expected: str) -> None:
    assert figures.wrapped(text, 20 if "-" in text else 3) == expected
