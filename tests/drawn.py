"""For tests: what a picture shows, read from the matplotlib figure that it was drawn from."""

from __future__ import annotations

from matplotlib.axes import Axes

from labkit.common.figures import Picture

PNG = b"\x89PNG\r\n\x1a\n"


def panels(picture: Picture) -> list[Axes]:
    """Its axes, in the order in which they were made; the PNG is one."""
    assert picture.png.startswith(PNG) and picture.figure is not None
    return picture.figure.axes


def title(axes: Axes) -> str:
    return axes.get_title(loc="left")


def legend(axes: Axes) -> list[str]:
    """The words of the legend, [] without one."""
    box = axes.get_legend()
    return [text.get_text() for text in box.get_texts()] if box else []


def notes(axes: Axes) -> list[str]:
    """What is written beside its lines and bars."""
    return [text.get_text() for text in axes.texts]


def points(axes: Axes, line: int = 0) -> list[tuple[float, float]]:
    """(x, y) of one line's points."""
    return [(float(x), float(y)) for x, y in axes.lines[line].get_xydata()]


def caption(picture: Picture) -> str:
    """What is written below the panels, as one line."""
    assert picture.figure is not None
    return " ".join(picture.figure.get_supxlabel().split())
