"""Open-WebUI where it is not started: a taken port, nobody there, its last words."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from labkit.common.errors import NotRunning, PortInUse, SettingError
from labkit.engines import model_engines
from labkit.failures.verdicts import explain_text
from labkit.serving.servers import serve
from labkit.webui import page


def test_a_taken_port_is_told_before_anything_is_made(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(PortInUse, match="pid") as failure:
            page.serve(port=other.getsockname()[1])
    assert "LABKIT_PORT_WEBUI" in failure.value.fix and list(tmp_path.iterdir()) == []


def test_attach_without_a_server_says_how_to_start_one() -> None:
    with pytest.raises(NotRunning, match="Open-WebUI does not run here"):
        page.attach()


def test_it_is_no_engine_that_serves_a_model() -> None:
    assert "open_webui" not in model_engines() and "vllm" in model_engines()
    with pytest.raises(SettingError, match=r"labkit\.webui\.serve"):
        serve("open_webui")


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("CommandError: Can't locate revision identified by 'ffffffffffff'", "newer Open-WebUI"),
        ("OperationalError: (sqlite3.OperationalError) database or disk is full", "disk of the data folder is full"),
        ("OSError: [Errno 28] No space left on device: '/x'", "disk of the data folder is full"),
        ("DatabaseError: (sqlite3.DatabaseError) file is not a database", "damaged"),
        ("sqlite3.OperationalError: table _alembic_tmp_knowledge_file already exists", "killed while it was changing the database"),
        ("sqlite3.OperationalError: unable to open database file", "is not yours"),
        ("ModuleNotFoundError: No module named 'chromadb'", "USE_SLIM_DOCKER"),
        ("ERROR: [Errno 98] error while attempting to bind on address ('127.0.0.1', 8080): address already in use", "port was taken"),
    ],
)
def test_its_own_last_words_are_explained(line: str, cause: str) -> None:
    """The lines are those of 0.12.4, seen on a full tmpfs, a changed, a damaged and a half changed database, and a taken port."""
    verdict = explain_text(f"INFO starting\n{line}\n", engine="open_webui")
    assert cause in verdict.cause and verdict.fix and verdict.line.endswith(line.removeprefix("ERROR: "))
