"""Progress for everything that takes over two seconds: a widget in a notebook kernel, lines in a terminal.

The widget is shown once and only its `.value` changes, which JupyterLab, papermill and nbval all bear. Lines that should
stay (a stage that ended) are printed in both places, so that an executed notebook tells the story too.
"""

from __future__ import annotations

import html
import sys
import time
from types import TracebackType
from typing import Any, Self

from .amounts import amount_text

REDRAW_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0
"""Where output is a file (papermill's log, CI), a line this often says that it is alive."""


def in_kernel() -> bool:
    """Whether this process is a notebook kernel (IPython is not imported to find out)."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and "ZMQInteractiveShell" in type(ipython.get_ipython()).__name__


class Progress:
    """One bar: `with Progress("Downloading", total=n, unit="B") as bar: bar.update(done, note)`.

    `total` None means unknown. `unit` is "B" for bytes, "s" for seconds, or any word that is counted. It draws at most twice a
    second and always the last state. On an exception the bar says so and stays.
    """

    def __init__(self, title: str, total: float | None = None, unit: str = "s") -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done, self.note = 0.0, ""
        self._started = time.monotonic()
        self._drawn = 0.0
        self._printed = 0.0
        self._widget: Any = _widget() if in_kernel() else None

    def __enter__(self) -> Self:
        self._draw("running")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._draw("failed" if kind else "done")
        if self._widget is None and sys.stderr.isatty():
            sys.stderr.write("\n")

    def update(self, done: float, note: str = "") -> None:
        """Say how far it is, in `unit`, and in a few words where."""
        self.done, self.note = done, note
        if time.monotonic() - self._drawn >= REDRAW_SECONDS:
            self._draw("running")

    def line(self, text: str) -> None:
        """Print one line that stays."""
        if self._widget is None and sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
        print(text, flush=True)

    def _draw(self, state: str) -> None:
        self._drawn = time.monotonic()
        text = self._text(state)
        if self._widget is not None:
            self._widget.value = _bar(text, self._share(state), state)
        elif sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{text[:110]}")
            sys.stderr.flush()
        elif state != "running" or self._drawn - self._printed >= HEARTBEAT_SECONDS:
            self._printed = self._drawn
            print(text, file=sys.stderr, flush=True)

    def _share(self, state: str) -> float:
        if state == "done":
            return 1.0
        return min(self.done / self.total, 0.99) if self.total else 0.0

    def _text(self, state: str) -> str:
        elapsed = time.monotonic() - self._started
        amount = amount_text(self.done, self.unit) + (f" of {amount_text(self.total, self.unit)}" if self.total else "")
        parts = [self.title, amount] + ([f"{elapsed:.0f} s"] if self.unit != "s" else []) + ([self.note] if self.note else [])
        return " · ".join(parts) + {"running": "", "done": " · done", "failed": " · stopped"}[state]


def _widget() -> Any:
    import ipywidgets
    from IPython.display import display

    widget = ipywidgets.HTML()
    display(widget)
    return widget


def _bar(text: str, share: float, state: str) -> str:
    colour = {"running": "#2f6fed", "done": "#2e9e5b", "failed": "#c9372c"}[state]
    return (
        f'<div style="font-size:13px">{html.escape(text)}</div>'
        f'<div style="background:#8883;border-radius:3px;height:6px;width:420px;max-width:100%">'
        f'<div style="background:{colour};border-radius:3px;height:6px;width:{share * 100:.0f}%"></div></div>'
    )
