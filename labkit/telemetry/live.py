"""The live view: a server's memory and power (without a GPU: memory and CPU of its processes), drawn while cells run.

In a notebook it is one widget, shown once; a background thread replaces the picture in it at most twice a second, so it goes
on while another cell works, and an executed notebook keeps the last frame. In a terminal it is one line.
Covers: showing and ending. Does not cover: sampling (`sampler`), drawing (`timeline`). Used by notebooks 03 to 06.
"""

from __future__ import annotations

import html
import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..common.progress import in_kernel
from .recording import Recording
from .sampler import Sampler
from .timeline import latest, recording_figure

if TYPE_CHECKING:
    from ..engines.endpoint import Endpoint


DRAW_SECONDS = 1.0
DRAW_SHARE = 0.08
"""A picture costs 0.1 to 0.3 s of a core: drawing may take this share of the time, so that the server does not feel it."""


class View:
    """What `watch` returns. `with` or `stop` ends it; the last picture stays. `recording` is what was seen so far."""

    def __init__(self, sampler: Sampler, title: str) -> None:
        self.sampler, self.title = sampler, title
        self._ended = threading.Event()
        self._screen: _Widget | _Line = _Widget() if in_kernel() else _Line()
        self._thread = threading.Thread(target=self._loop, name="labkit-view", daemon=True)

    def start(self) -> Self:
        self.sampler.start()
        self._draw()
        self._thread.start()
        return self

    def stop(self) -> Recording:
        """End it with one last picture and return the recording. A second call returns the same."""
        if not self._ended.is_set():
            self._ended.set()
            self._thread.join()
            self.sampler.stop()
            self._draw(last=True)
        return self.recording

    def mark(self, text: str) -> None:
        """Note in the picture what happens now."""
        self.sampler.mark(text)

    @property
    def recording(self) -> Recording:
        return self.sampler.recording

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<view of {self.title}: {len(self.recording)} samples>"

    def _loop(self) -> None:
        pause = DRAW_SECONDS
        while not self._ended.wait(pause):
            began = time.monotonic()
            self._draw()
            pause = max(DRAW_SECONDS, (time.monotonic() - began) / DRAW_SHARE)

    def _draw(self, last: bool = False) -> None:
        self._screen.show(self.title, self.recording, last)


def watch(server: Endpoint | None = None, seconds: float | None = None, *, hz: float = 1.0) -> View:
    """Show memory and power of `server`'s GPUs from now on, without one memory and CPU of its processes.

    With `seconds` it blocks that long and ends; without, it returns at once and goes on until `stop`, the end of its `with`
    block, or the kernel's end. Without a server it shows the GPUs that this process may use. Samples `hz` times a second, at most 5. Raises
    `SettingError` if there is nothing to show: no GPU, and no server.
    """
    title = f"{server.engine.title} serving {server.model}" if server else "GPUs of this machine"
    kind = "cpu" if server is not None and server.device == "cpu" else "auto"
    sampler = Sampler(server.processes if server else None, hz=hz, kind=kind, gpus=server.gpus if server else None)
    view = View(sampler, title).start()
    if seconds is None:
        return view
    try:
        time.sleep(seconds)
    finally:
        view.stop()
    return view


class _Widget:
    """One VBox of a line of text and a picture; only their values change."""

    def __init__(self) -> None:
        import ipywidgets
        from IPython.display import display

        self.text = ipywidgets.HTML()
        self.image = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%", width="900px"))
        display(ipywidgets.VBox([self.text, self.image]))

    def show(self, title: str, recording: Recording, last: bool) -> None:
        self.image.value = recording_figure(recording, title).png
        ended = " · ended" if last else ""
        self.text.value = f'<div style="font-size:13px">{html.escape(latest(recording))}{ended}</div>'


class _Line:
    """One line that is written over in a terminal; where output is a file, only the last one."""

    def show(self, title: str, recording: Recording, last: bool) -> None:
        text = f"{title}: {latest(recording)}"
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{text[:120]}" + ("\n" if last else ""))
            sys.stderr.flush()
        elif last:
            print(text, flush=True)
