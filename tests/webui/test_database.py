"""A database that cannot be written, told before the page starts and while it runs."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from labkit.webui import database
from labkit.webui.data import Data
from labkit.webui.database import DatabaseUnusable, require_writable


@pytest.fixture
def made(own: Data) -> Path:
    own.folder.mkdir(parents=True)
    with closing(sqlite3.connect(own.database)) as connection:
        connection.execute("create table auth (email)")
    return own.database


def test_one_that_is_free_or_not_there_is_no_fault(own: Data, made: Path) -> None:
    require_writable(made)
    require_writable(made.with_name("none.db"))
    assert not made.with_name("none.db").exists()


@pytest.mark.parametrize("mode", ["exclusive", "immediate"])
def test_the_process_that_holds_it_is_named(made: Path, mode: str) -> None:
    script = f"import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('begin {mode}'); print(1, flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", script, str(made)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout and holder.stdout.readline()
    try:
        with pytest.raises(DatabaseUnusable, match=f"is locked; it is open in .*pid {holder.pid} ") as failure:
            require_writable(made, 0.1)
        assert f"kill {holder.pid}" in failure.value.fix
    finally:
        holder.communicate(b"\n")
    require_writable(made)


def test_a_network_disk_is_named(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_holders", lambda path: iter(()))
    monkeypatch.setattr(database, "_file_system", lambda path: "nfs4")
    with closing(sqlite3.connect(made, isolation_level=None)) as other:
        other.execute("begin exclusive")
        with pytest.raises(DatabaseUnusable, match=r"no process that can be seen here.*network disk \(nfs4\)") as failure:
            require_writable(made, 0.1)
    assert "export LABKIT_HOME" in failure.value.fix


def test_what_is_no_database_or_may_not_be_written_is_told(made: Path) -> None:
    made.write_bytes(b"<html>" * 1000)
    with pytest.raises(DatabaseUnusable, match="not a database"):
        require_writable(made)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_file_of_somebody_else_is_told(made: Path) -> None:
    made.chmod(0o400)
    with pytest.raises(DatabaseUnusable, match="readonly"):
        require_writable(made)


def test_the_disk_of_this_test_has_a_kind(tmp_path: Path) -> None:
    assert database._file_system(tmp_path)
