"""The live view: in a terminal here, and in a real notebook kernel through papermill's own engine."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
import stand_in
from stand_in import StandIn

from labkit.common.errors import SettingError
from labkit.machine import gpu
from labkit.telemetry.live import watch


@pytest.fixture
def server() -> StandIn:
    return StandIn(pids=[os.getpid()])


def test_with_seconds_it_ends_by_itself_and_says_the_last_value(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    view = watch(server, 0.3, hz=5)
    assert len(view.recording) >= 3
    out = capsys.readouterr().out
    assert out.startswith("vLLM serving tiny") and "GiB" in out and len(out.splitlines()) == 1
    assert "labkit-view" not in [thread.name for thread in threading.enumerate()]


def test_with_a_block_it_goes_on_meanwhile_and_ends_after_an_error(server: Any) -> None:
    with pytest.raises(ZeroDivisionError), watch(server, hz=5) as view:
        view.mark("before")
        while len(view.recording) < 3:
            time.sleep(0.05)
        1 / 0  # noqa: B018
    ended = len(view.recording)
    assert view.stop() == view.recording and len(view.recording) == ended
    assert [text for _, text in view.recording.marks] == ["before"]


@pytest.mark.skipif(bool(gpu.devices()), reason="this machine has a GPU")
def test_without_server_and_gpu_it_is_an_error() -> None:
    with pytest.raises(SettingError, match="no GPU"):
        watch()


CELL = f"""
import os, sys, time
sys.path.append({str(Path(stand_in.__file__).parent)!r})
import labkit
from stand_in import StandIn
view = labkit.watch(StandIn(pids=[os.getpid()]), hz=5)
"""


def test_in_a_notebook_it_is_one_widget_with_the_last_frame() -> None:
    from nbclient import NotebookClient

    cells = [nbformat.v4.new_code_cell(text) for text in (CELL, "time.sleep(1.5)", "view.stop(); print(len(view.recording) > 5)")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = NotebookClient(notebook, kernel_name="python3", store_widget_state=True, timeout=120)
    client.execute()
    client.set_widgets_metadata()
    (shown,) = notebook.cells[0].outputs
    assert shown.output_type == "display_data" and "application/vnd.jupyter.widget-view+json" in shown.data
    assert notebook.cells[1].outputs == []
    assert notebook.cells[2].outputs[0].text == "True\n"
    states = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    (picture,) = [state for state in states if state["model_name"] == "ImageModel"]
    assert picture["buffers"][0]["data"].startswith("iVBORw0KGgo")
    (text,) = [state["state"]["value"] for state in states if state["model_name"] == "HTMLModel"]
    assert "ended" in text and "GiB" in text
