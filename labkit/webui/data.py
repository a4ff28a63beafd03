"""Open-WebUI's data folder and its administrator: made before it starts, guarded against a wrong version and a full disk.

Open-WebUI keeps users, chats, and its connections with their keys in one SQLite file, in clear; so the folder is 0700. The
administrator's password is random, in a 0600 file: whoever has it can read the engines' keys.

A first start and an update change the database in some 60 steps, and a start that is killed between two of them leaves one
that no later start can go on with (seen with 0.12.4). `Data.prepare` puts a whole one in its place.

Covers: the folder, the password, the version that wrote the folder, a copy before an update, a new password.
Does not cover: starting (`page`), the HTTP interface (`api`).
"""

from __future__ import annotations

import re
import secrets
import sqlite3
import subprocess
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ..common.disk import free_bytes
from ..common.errors import LabError, NoSpace, SignInFailed
from ..common.files import PRIVATE, beside, write_once, write_text
from ..common.settings import Settings
from ..serving.keys import key_file

EMAIL = "admin@lab.local"
MIN_FREE_BYTES = 200_000_000
"""A fresh folder takes 2 MB; SQLite's log and uploads need room, and a full disk breaks signing in too."""
ASIDE = "webui.db.cut-off"
"""The database of a start that was killed while it changed it; the next one that is cut off takes its place."""
PARTS = ("", "-journal", "-wal", "-shm")
"""SQLite's files: a journal that is left beside another database would be played back into it."""
LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
"""None that is easily mistaken for another: the password is typed by hand. 16 of them are 79 bits."""
RESET = r"""
import bcrypt, sqlite3, sys
email, password = sys.stdin.read().split("\n")
hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt()).decode()
with sqlite3.connect(sys.argv[1], timeout=30) as database:
    print(database.execute("update auth set password = ?, active = 1 where email = ?", (hashed, email)).rowcount)
"""
"""Run in Open-WebUI's environment, which has bcrypt; the password comes through a pipe and is on no command line."""


@dataclass(frozen=True)
class Data:
    """The data folder of one data home."""

    folder: Path
    password_file: Path

    @property
    def database(self) -> Path:
        return self.folder / "webui.db"

    @property
    def password(self) -> str:
        """The administrator's password, made at first use. Do not print it: cell outputs are saved."""
        made = "-".join("".join(secrets.choice(LETTERS) for _ in range(4)) for _ in range(4))
        return write_once(self.password_file, made).strip()

    @property
    def written_by(self) -> str:
        """The newest Open-WebUI that has used the folder, "" for a new one or one that was made without labkit."""
        try:
            return (self.folder / "labkit-version").read_text().strip()
        except FileNotFoundError:
            return ""

    def prepare(self, version: str, steps: Iterable[Path] = ()) -> None:
        """Make the folder, 0700, ready for Open-WebUI `version`; a database of an older one is copied first.

        A database that an earlier start left half changed is put aside, and said: where nobody has an account yet a new one is
        begun, else the copy from before the update comes back. `steps` are the files of the changes that `version` makes.

        Raises, before anything is written, `LabError` for a folder that a newer version has used, `NoSpace` for a full disk.
        """
        before = self.written_by
        if before and _order(before) > _order(version):
            raise LabError(
                f"The data folder {self.folder} was last used by Open-WebUI {before}; the one installed here is {version}, and it "
                "cannot read a newer database.",
                f"Use {before} again (LABKIT_RUNTIME_OPEN_WEBUI names its python), or begin anew: "
                f"mv {self.folder} {self.folder}-{before} (chats and accounts stay in it).",
            )
        free = free_bytes(self.folder)
        if free < MIN_FREE_BYTES:
            raise NoSpace(
                f"The disk of {self.folder} has {free / 1e6:.0f} MB free; Open-WebUI needs {MIN_FREE_BYTES / 1e6:.0f} MB.",
                "Make room there (./lab doctor shows the disks), or set LABKIT_HOME to a folder on a larger disk.",
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        if not self.database.exists():
            return
        if not before and _rows(self.database, "select 1 from auth") == []:
            self._put_aside("its first start was killed before there was an account, so it begins anew")
        elif before and before != version:
            self._prepare_update(version, steps)

    def used_by(self, version: str) -> None:
        """Remember that `version` has opened the folder."""
        write_text(self.folder / "labkit-version", version + "\n", mode=PRIVATE)

    def reset_password(self, python: Path) -> None:
        """Give the administrator's account the password of `password_file`. Chats and connections stay; the server may run.

        `python` is that of Open-WebUI's environment. Raises `SignInFailed` if the folder has no such account.
        """
        if not self.database.exists():
            raise SignInFailed(f"There is no account yet: {self.database} does not exist.", "labkit.webui.serve() makes it.")
        done = subprocess.run(
            [str(python), "-I", "-c", RESET, str(self.database)], input=f"{EMAIL}\n{self.password}", capture_output=True, text=True
        )
        if done.returncode:
            raise SignInFailed(
                f"The password could not be set in {self.database}: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}",
                "Stop Open-WebUI (./lab down open_webui) and try again; or rename the data folder to begin anew.",
            )
        if done.stdout.strip() == "0":
            raise SignInFailed(
                f"{self.database} has no account {EMAIL}: it was made without labkit.",
                f"Move it away to begin anew: mv {self.folder} {self.folder}-old (chats and accounts stay in it).",
            )

    def _prepare_update(self, version: str, steps: Iterable[Path]) -> None:
        """A whole copy beside it, or back to the one that an update to `version` made before it was killed."""
        copy = self.folder / f"webui.db.before-{version}"
        if not copy.exists():
            _copy(self.database, copy)
        elif _unfinished(self.database, steps):
            self._put_aside(f"an update to {version} was killed, so the copy from before it takes its place")
            _copy(copy, self.database)

    def _put_aside(self, why: str) -> None:
        for part in PARTS:
            (self.folder / (ASIDE + part)).unlink(missing_ok=True)
        for part in reversed(PARTS):  # the database last: while it is there, the next call comes here again
            found = self.database.with_name(self.database.name + part)
            if found.exists():
                found.rename(self.folder / (ASIDE + part))
        print(f"{self.database} was half changed: {why}. It is kept as {ASIDE}.", flush=True)


def data(config: Settings) -> Data:
    """The folder that belongs to a data home."""
    return Data(config.home / "open-webui", key_file("open_webui", config).with_suffix(".password"))


def _copy(source: Path, target: Path) -> None:
    """Through SQLite itself, beside and renamed: an update changes the tables and cannot be undone."""
    with beside(target) as draft:
        draft.touch(PRIVATE)
        with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(draft)) as new:
            old.backup(new)


def _rows(database: Path, query: str) -> list[tuple[object, ...]] | None:
    """The rows of a query, [] where there is no such table; None for a file that cannot be read now, or is no database."""
    try:
        with closing(sqlite3.connect(database, timeout=10)) as connection:
            return connection.execute(query).fetchall()
    except sqlite3.DatabaseError as error:
        return [] if "no such table" in str(error) else None


def _unfinished(database: Path, steps: Iterable[Path]) -> bool:
    """Whether one of `steps` begins where the database is: then it is on the way and not at its end."""
    here = {str(row[0]) for row in _rows(database, "select version_num from alembic_version") or []}
    starts = [re.search(r"""^down_revision\b[^=]*=\s*["'](\w+)["']""", step.read_text(), re.MULTILINE) for step in steps]
    return not here.isdisjoint(start.group(1) for start in starts if start)


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
