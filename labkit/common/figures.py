"""The strokes of every figure of the kit: an empty figure, its PNG, colours, bars, axes. Knows no result: results draw themselves.

Every figure is a matplotlib `Figure` with the Agg canvas, so that it can be drawn in a background thread and in any process;
`Picture` is its PNG, which shows itself in a notebook. Text in figures is English: the fonts of a rented machine seldom have
Chinese letters.

    with drawing:
        figure = new_figure(11.0, 3.9)
        ...
        return finish(figure, words)
"""

from __future__ import annotations

import html
import io
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


COLOURS = ("#2f6fed", "#e07b26", "#2e9e5b", "#9b4dca", "#c9372c", "#178f9c", "#8a6d3b", "#5b6470")
GRID = "#d9dde3"
QUIET = "#5b6470"

drawing = threading.Lock()
"""matplotlib's fonts are shared between threads; one figure at a time."""


@dataclass(frozen=True)
class Picture:
    """A drawn figure: PNG bytes that show themselves in a notebook, and what they show as words.

    `figure` is what it was drawn from, for whoever wants its axes; None for a picture from elsewhere.
    """

    png: bytes
    words: str
    figure: Figure | None = field(default=None, repr=False, compare=False)

    def _repr_png_(self) -> bytes:
        return self.png

    def _repr_html_(self) -> str:
        import base64

        source = f"data:image/png;base64,{base64.b64encode(self.png).decode()}"
        return f'<img src="{source}" alt="{html.escape(self.words, quote=True)}" style="max-width:100%">'

    def __repr__(self) -> str:
        return f"<picture: {self.words}>"

    def save(self, path: str | Path) -> Path:
        """Write the PNG."""
        target = Path(path)
        target.write_bytes(self.png)
        return target


def small_text(across: str, down: str) -> dict[str, Any]:
    """How a note beside a line is written: options of `Axes.annotate`, with its alignment across and down."""
    return {"textcoords": "offset points", "fontsize": 8, "color": QUIET, "ha": across, "va": down}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this kit's look, in inches, drawn without a display; draw in it while you hold `drawing`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def title(axes: Axes, text: str) -> None:
    """The title of one panel."""
    axes.set_title(text, loc="left", fontsize=10)


def legend(axes: Axes, **options: Any) -> None:
    """The legend of one panel; `options` are matplotlib's."""
    axes.legend(**{"fontsize": 8, "frameon": False, **options})


def caption(figure: Figure, text: str, width: int) -> None:
    """What the whole figure holds for, below it, in lines of at most `width` characters."""
    figure.supxlabel(wrapped(text, width), fontsize=8, color=QUIET, x=0.01, ha="left")


def finish(figure: Figure, words: str) -> Picture:
    """The figure as a picture; `words` say what it shows."""
    return Picture(as_png(figure), words, figure)


def as_png(figure: Figure) -> bytes:
    """The finished figure as PNG, with the grid and the small labels that every picture here has."""
    for axes in figure.axes:
        axes.grid(True, color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=9, colors=QUIET)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GRID)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    return stream.getvalue()


def sparse_log(axes: Axes) -> None:
    """A logarithmic y axis with labels at 1, 2 and 5 only."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, position: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def wrapped(text: str, width: int) -> str:
    """`text` in lines of at most `width` characters."""
    import textwrap

    return "\n".join(textwrap.wrap(text, width, break_on_hyphens=False))


def draw_bars(axes: Any, names: Sequence[str], groups: Sequence[tuple[str, Sequence[float]]]) -> None:
    """Groups of bars side by side over `names`; shares become percent, and an empty bar still shows its number."""
    width = 0.8 / len(groups)
    for number, (label, shares) in enumerate(groups):
        places = [place + width * (number - (len(groups) - 1) / 2) for place in range(len(names))]
        bars = axes.bar(places, [100 * share for share in shares], 0.94 * width, color=COLOURS[number % len(COLOURS)], label=label)
        axes.bar_label(bars, [f"{100 * share:.0f}" for share in shares], fontsize=7, color=QUIET)
    axes.set_xticks(range(len(names)), names, fontsize=7 if len(names) > 4 else 8)
    axes.set_ylim(0, 122)
    axes.set_yticks(range(0, 101, 25))
