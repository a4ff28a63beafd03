"""Open-WebUI's data folder, password and messages: what must be right before the program runs at all."""

from __future__ import annotations

import socket
import sqlite3
import stat
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from labkit.common.errors import LabError, NoSpace, NotRunning, PortInUse, SettingError, SignInFailed
from labkit.common.logs import explain
from labkit.common.settings import settings
from labkit.engines import model_engines
from labkit.engines.open_webui import ENGINE
from labkit.serving.servers import serve
from labkit.webui import api, page
from labkit.webui import data as data_folder
from labkit.webui.api import Api, ApiError, Connection, _why, clean, same_place
from labkit.webui.data import ASIDE, Data, data


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    return data(settings())


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
    monkeypatch.setattr(data_folder, "LEAST_FREE_BYTES", 1 << 60)
    with pytest.raises(NoSpace, match="MB free"):
        own.prepare("0.12.4")
    assert not own.folder.exists()


def test_a_taken_port_is_told_before_anything_is_made(own: Data, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(PortInUse, match="pid") as failure:
            page.serve(port=other.getsockname()[1])
    assert "LABKIT_PORT_WEBUI" in failure.value.fix and list(tmp_path.iterdir()) == []


def test_an_environment_without_the_script_runs_the_same_through_its_python(tmp_path: Path) -> None:
    """As `pip install --target` leaves it."""
    python = tmp_path / "python"
    assert page._program(python)[:2] == [str(python), "-c"] and "open_webui" in page._program(python)[2]
    (tmp_path / "open-webui").touch()
    assert page._program(python) == [str(tmp_path / "open-webui")]


def test_attach_without_a_server_says_how_to_start_one() -> None:
    with pytest.raises(NotRunning, match="Open-WebUI does not run here"):
        page.attach()


def test_a_password_without_an_account_cannot_be_reset(own: Data) -> None:
    with pytest.raises(SignInFailed, match="no account yet"):
        own.reset_password(Path("/nonexistent"))


def test_it_is_no_engine_that_serves_a_model() -> None:
    assert "open_webui" not in model_engines() and "vllm" in model_engines()
    with pytest.raises(SettingError, match=r"labkit\.webui\.serve"):
        serve("open_webui")


@pytest.mark.parametrize(
    ("written", "stored"), [("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1"), (" http://h/v1// ", "http://h/v1"), ("x", "x")]
)
def test_a_base_url_is_stored_without_trailing_slashes(written: str, stored: str) -> None:
    assert clean(written) == stored


def test_localhost_and_the_loopback_address_are_one_place() -> None:
    one = Connection("http://localhost:8000/v1/")
    assert same_place(one, Connection("http://127.0.0.1:8000/v1"))
    assert not same_place(one, Connection("http://127.0.0.1:30000/v1")) and not same_place(one, Connection("http://127.0.0.1:8000"))


def test_a_connection_does_not_show_its_key() -> None:
    assert "sk-secret" not in repr(Connection("http://h/v1", "sk-secret"))


@pytest.mark.parametrize(
    ("url", "status", "says"),
    [
        ("http://127.0.0.1:8000/v1", 401, "key is wrong"),
        ("http://127.0.0.1:8000", 404, "must end in /v1"),
        ("http://127.0.0.1:8000/v1/", 404, "ends with a slash"),
        ("http://127.0.0.1:1/v1", 500, "Nothing listens on port 1"),
        ("127.0.0.1:8000/v1", 500, "no address"),
        ("http://no.such.host/v1", 500, "cannot be reached"),
    ],
)
def test_each_answer_of_verify_has_its_own_cause_and_a_fix(url: str, status: int, says: str) -> None:
    cause, fix = _why(url, ApiError("try", status, "Open WebUI: Server Connection Error"))
    assert says in cause and fix


def test_something_else_on_the_engine_s_port_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        cause, _ = _why(f"http://127.0.0.1:{other.getsockname()[1]}/v1", ApiError("try", 500, "x"))
    assert "is taken by pid" in cause


def test_nobody_there_is_an_error_of_the_family() -> None:
    with pytest.raises(NotRunning, match="does not answer"):
        Api("http://127.0.0.1:1").version()


def test_an_error_on_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a full tmpfs Open-WebUI 0.12.4 answered 500 "Internal Server Error" and no more."""

    class Failing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(500, "Internal Server Error")

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Failing)
    Thread(target=server.serve_forever, daemon=True).start()
    page = Api(f"http://127.0.0.1:{server.server_address[1]}", tmp_path)
    with pytest.raises(ApiError, match="HTTP 500"):
        page.call("GET", "/", what="save a chat")
    monkeypatch.setattr(api, "FULL_BYTES", 1 << 60)
    with pytest.raises(NoSpace, match="could not save a chat"):
        page.call("GET", "/", what="save a chat")
    server.shutdown()


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("CommandError: Can't locate revision identified by 'ffffffffffff'", "newer Open-WebUI"),
        ("OperationalError: (sqlite3.OperationalError) database or disk is full", "disk of the data folder is full"),
        ("OSError: [Errno 28] No space left on device: '/x'", "disk of the data folder is full"),
        ("DatabaseError: (sqlite3.DatabaseError) file is not a database", "damaged"),
        ("sqlite3.OperationalError: table _alembic_tmp_knowledge_file already exists", "killed while it was changing the database"),
        ("sqlite3.OperationalError: unable to open database file", "cannot be written"),
        ("ModuleNotFoundError: No module named 'chromadb'", "USE_SLIM_DOCKER"),
        ("ERROR: [Errno 98] error while attempting to bind on address ('127.0.0.1', 8080): address already in use", "port was taken"),
    ],
)
def test_its_own_last_words_are_explained(line: str, cause: str) -> None:
    """The lines are those of 0.12.4, seen on a full tmpfs, a changed, a damaged and a half changed database, and a taken port."""
    verdict = explain(f"INFO starting\n{line}\n", ENGINE.explanations)
    assert cause in verdict.cause and verdict.fix and verdict.line == line
