"""Servers with the stand-in engine, each test in a home of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_server
import pytest

from labkit.serving.server import Server

Begin = Callable[..., Server]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    monkeypatch.setenv("LABKIT_DEVICE", "cpu")
    return tmp_path


@pytest.fixture
def begin(home: Path) -> Iterator[Begin]:
    """`fake_server.begin`; whatever still runs is stopped after the test."""
    made: list[Server] = []

    def start_one(*words: str, **options: Any) -> Server:
        made.append(fake_server.begin(*words, **options))
        return made[-1]

    yield start_one
    for server in made:
        server.stop()
