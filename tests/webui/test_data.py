"""Open-WebUI's data folder and password: what must be right before the program runs at all."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from labkit.common.errors import LabError, NoSpace, SignInFailed
from labkit.common.settings import settings
from labkit.webui import data as data_folder
from labkit.webui.data import ASIDE, Data, data


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_password_is_made_once_in_a_file_of_its_owner(own: Data) -> None:
    first = own.password
    assert own.password == first and len(first) == 19 and mode(own.password_file) == 0o600
    assert mode(own.password_file.parent) == 0o700


def test_two_homes_have_two_passwords(own: Data, tmp_path: Path) -> None:
    other = data(settings({"LABKIT_HOME": str(tmp_path / "other")}))
    assert other.password != own.password


def test_the_data_folder_is_its_owner_s_alone(own: Data) -> None:
    own.folder.mkdir(mode=0o755)
    own.prepare("0.12.4")
    assert mode(own.folder) == 0o700


def test_a_folder_of_a_newer_version_is_refused_and_untouched(own: Data) -> None:
    own.prepare("0.13.0")
    own.used_by("0.13.0")
    before = sorted(own.folder.iterdir())
    with pytest.raises(LabError, match=r"Open-WebUI 0\.13\.0; the one installed here is 0\.12\.4") as failure:
        own.prepare("0.12.4")
    assert "mv " in failure.value.fix and sorted(own.folder.iterdir()) == before


def test_an_update_leaves_a_whole_copy_of_the_database(own: Data) -> None:
    own.prepare("0.9.10")
    own.used_by("0.9.10")
    with sqlite3.connect(own.database) as database:
        database.execute("create table chat (text)")
        database.execute("insert into chat values ('hello')")
    own.prepare("0.12.4")
    copy = own.folder / "webui.db.before-0.12.4"
    assert sqlite3.connect(copy).execute("select text from chat").fetchall() == [("hello",)]
    assert [path.name for path in own.folder.glob("*before*")] == [copy.name]


def test_the_same_version_copies_nothing(own: Data) -> None:
    own.prepare("0.12.4")
    own.used_by("0.12.4")
    own.database.write_bytes(b"")
    own.prepare("0.12.4")
    assert not list(own.folder.glob("*before*"))


def make_database(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(statement)


def test_a_first_start_that_was_killed_is_begun_anew_and_kept_aside(own: Data, capsys: pytest.CaptureFixture[str]) -> None:
    own.prepare("0.12.4")
    make_database(own.database, "create table auth (id)", "create table _alembic_tmp_knowledge_file (id)")
    own.database.with_name("webui.db-wal").write_bytes(b"")
    own.prepare("0.12.4")
    left = {path.name for path in own.folder.glob("webui.db*")}
    assert ASIDE in left <= {ASIDE, ASIDE + "-wal"} and "before there was an account" in capsys.readouterr().out


def test_a_database_with_an_account_is_never_put_aside_without_a_copy(own: Data) -> None:
    own.prepare("0.12.4")
    make_database(own.database, "create table auth (id)", "insert into auth values (1)")
    own.prepare("0.12.4")
    assert own.database.exists() and not (own.folder / ASIDE).exists()


def test_a_file_that_is_no_database_is_left_for_open_webui_to_name(own: Data) -> None:
    own.prepare("0.12.4")
    own.database.write_bytes(b"no database at all" * 100)
    own.prepare("0.12.4")
    assert own.database.exists() and not (own.folder / ASIDE).exists()


@pytest.mark.parametrize(("revision", "back"), [("step1", True), ("step2", False)])
def test_an_update_that_was_killed_goes_back_to_its_copy(own: Data, tmp_path: Path, revision: str, back: bool) -> None:
    steps = [tmp_path / "one.py", tmp_path / "two.py"]
    steps[0].write_text("revision = 'step1'\ndown_revision = 'step0'\n")
    steps[1].write_text('revision: str = "step2"\ndown_revision: Union[str, None] = "step1"\n')
    own.prepare("0.9.10")
    own.used_by("0.9.10")
    make_database(own.database, "create table alembic_version (version_num)", "insert into alembic_version values ('step0')")
    own.prepare("0.12.4", steps)
    make_database(own.database, f"update alembic_version set version_num = '{revision}'", "create table half (id)")
    own.prepare("0.12.4", steps)
    with closing(sqlite3.connect(own.database)) as database:
        found = database.execute("select version_num from alembic_version").fetchone()[0]
    assert (found, (own.folder / ASIDE).exists()) == (("step0", True) if back else (revision, False))
    with closing(sqlite3.connect(own.folder / "webui.db.before-0.12.4")) as copy:
        assert copy.execute("select version_num from alembic_version").fetchone() == ("step0",), "the copy is of before the update"


def test_a_full_disk_is_told_before_anything_is_written(own: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_folder, "MIN_FREE_BYTES", 1 << 60)
    with pytest.raises(NoSpace, match="MB free"):
        own.prepare("0.12.4")
    assert not own.folder.exists()


def test_a_password_without_an_account_cannot_be_reset(own: Data) -> None:
    with pytest.raises(SignInFailed, match="no account yet"):
        own.reset_password(Path("/nonexistent"))
