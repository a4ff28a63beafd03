"""A data home of each test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.common.settings import settings
from labkit.webui.data import Data, data


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    return data(settings())
