"""Open-WebUI's data folder and its administrator: made before it starts, guarded against a wrong version and a full disk.

Open-WebUI keeps users, chats, and its connections with their keys in one SQLite file, in clear; so the folder is 0700. The
administrator's password is random, in a 0600 file: whoever has it can read the engines' keys.

Covers: the folder, the password, the version that wrote the folder, a copy before an update, a new password.
Does not cover: starting (`webui`), the HTTP interface (`webui_api`).
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError, NoSpace, SignInFailed
from .settings import Settings

EMAIL = "admin@lab.local"
LEAST_FREE_BYTES = 200_000_000
"""A fresh folder takes 2 MB; SQLite's log and uploads need room, and a full disk breaks signing in too."""
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
        if not self.password_file.exists():
            _write_once(self.password_file, "-".join("".join(secrets.choice(LETTERS) for _ in range(4)) for _ in range(4)))
        return self.password_file.read_text().strip()

    @property
    def written_by(self) -> str:
        """The newest Open-WebUI that has used the folder, "" for a new one or one that was made without labkit."""
        try:
            return (self.folder / "labkit-version").read_text().strip()
        except FileNotFoundError:
            return ""

    def prepare(self, version: str) -> None:
        """Make the folder, 0700, ready for Open-WebUI `version`; a database of an older one is copied first.

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
        free = shutil.disk_usage(_existing(self.folder)).free
        if free < LEAST_FREE_BYTES:
            raise NoSpace(
                f"The disk of {self.folder} has {free / 1e6:.0f} MB free; Open-WebUI needs {LEAST_FREE_BYTES / 1e6:.0f} MB.",
                "Make room there (./lab doctor shows the disks), or set LABKIT_HOME to a folder on a larger disk.",
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        if before and before != version and self.database.exists():
            self._copy_database(version)

    def used_by(self, version: str) -> None:
        """Remember that `version` has opened the folder."""
        draft = self.folder / f"labkit-version.{os.getpid()}"
        draft.write_text(version + "\n")
        draft.chmod(0o600)
        draft.replace(self.folder / "labkit-version")

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

    def _copy_database(self, version: str) -> None:
        """A whole copy beside it, through SQLite itself: an update changes the tables and cannot be undone."""
        copy = self.folder / f"webui.db.before-{version}"
        draft = copy.with_suffix(f".{os.getpid()}")
        with closing(sqlite3.connect(self.database)) as source, closing(sqlite3.connect(draft)) as target:
            source.backup(target)
        draft.replace(copy)


def data(where: Settings) -> Data:
    """The folder that belongs to a data home."""
    return Data(where.home / "open-webui", where.key_file("open_webui").with_suffix(".password"))


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _write_once(path: Path, text: str) -> None:
    """A 0600 file with `text`, unless another process was first."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
