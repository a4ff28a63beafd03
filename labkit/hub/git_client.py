"""git and git-lfs as a client: in the process that `client` runs in, with settings that leave every byte as the hub has it.

git for the small files, `git lfs fetch` for the large ones, then hard links into the folder: a plain `git lfs pull` keeps each large
file twice, in .git/lfs and in the folder.
Covers: resuming, the reader's own git settings, a busy hub. Does not cover: git-lfs's absence (`sources`).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, urlsplit

from labkit.common.files import beside
from labkit.hub import lfs_trace, printed
from labkit.hub.evidence import Evidence, Link
from labkit.hub.job import Fetched, Job
from labkit.hub.patience import BUSY
from labkit.hub.witness import Witness, give_up
from labkit.models.listing import path_fault
from labkit.workers import side

OWN_SETTINGS = {
    "core.autocrlf": "false",
    "core.eol": "lf",
    "core.safecrlf": "false",
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.fileMode": "false",
    "core.protectNTFS": "true",
    "core.attributesFile": "/dev/null",
    "checkout.workers": "1",
    "safe.directory": "*",
    "lfs.transfer.maxretries": "3",
    "lfs.transfer.maxretrydelay": "2",
}
"""Over those of the reader's ~/.gitconfig: git must not change line ends, run hooks, or refuse a folder for its owner.

git-lfs's own are 8 and 10 s, which makes a file that is not there cost over a minute; `downloads` tries twice anyway.
"""
ATTRIBUTES = "* -text -ident -working-tree-encoding\n"
"""In .git/info/attributes, which stands above the .gitattributes of the model: no file is rewritten at checkout."""


class GitFailed(Exception):
    """A git that ended with an error; `links` is what its answers and its words say."""

    def __init__(self, words: str, links: Sequence[Link]) -> None:
        super().__init__(words)
        self.links = tuple(links) or (Link("git", "git", words),)


def fetch(job: Job, witness: Witness) -> Fetched:
    """The model at the newest commit, in `job.folder`; tells what failed and ends the process where git fails."""
    try:
        return _fetch(job, witness)
    except GitFailed as failed:
        side.tell("failure", **Evidence(failed.links).as_message())
        sys.stderr.flush()
        os._exit(1)


def _fetch(job: Job, witness: Witness) -> Fetched:
    folder = job.folder
    assert folder is not None, "git has no cache by id"
    address = f"{job.endpoint}/{quote(job.model)}.git"
    _patient(witness, address, lambda: _repository(folder, address))
    large = _lfs_files(folder)
    for path in set(job.kept) & set(large):
        stored = _lfs_object(folder, large[path])
        if not stored.exists():
            stored.parent.mkdir(parents=True, exist_ok=True)
            os.link(folder / path, stored)
    _patient(witness, address, lambda: _fetch_large(folder, address))
    for path, oid in large.items():
        _link(_lfs_object(folder, oid), folder / path)
    small = [path for path in _tracked(folder) if path not in large and path not in job.kept]
    if small:
        _git(folder, "checkout", "--quiet", "HEAD", "--", *small)
    _git(folder, "lfs", "install", "--local", "--skip-repo")
    return Fetched(folder, _git(folder, "rev-parse", "HEAD").strip())


def _patient(witness: Witness, address: str, work: Callable[[], object]) -> None:
    """`work`, again while the hub answers busy."""
    tried = 0
    while True:
        try:
            work()
            return
        except GitFailed as failed:
            link = next((link for link in failed.links if link.status in BUSY), None)
            if link is None:
                raise
            tried += 1
            busy = replace(link, type="Answer", host=urlsplit(address).netloc, headers=link.headers)
            if not witness.patience.wait(busy.host, busy.status, busy.headers, tried):
                give_up(busy)


def _repository(folder: Path, address: str) -> None:
    """`folder/.git` at the newest commit of `address`, with an index and no work tree yet; a half-made clone never counts."""
    if not (folder / ".git").exists():
        draft = folder / ".git.draft"
        shutil.rmtree(draft, ignore_errors=True)
        _asked(folder, address, "clone", "--quiet", "--template=", "--depth", "1", "--no-checkout", address, str(draft))
        (draft / ".git").rename(folder / ".git")
        draft.rmdir()
    _git(folder, "remote", "set-url", "origin", address)
    _asked(folder, address, "fetch", "--quiet", "--depth", "1", "origin", "HEAD")
    _git(folder, "update-ref", "HEAD", "FETCH_HEAD")
    (folder / ".git" / "index.lock").unlink(missing_ok=True)  # of a git that was killed: `downloads` lets in one at a time
    _git(folder, "read-tree", "HEAD")
    (folder / ".git" / "info").mkdir(exist_ok=True)
    (folder / ".git" / "info" / "attributes").write_text(ATTRIBUTES)


def _tracked(folder: Path) -> list[str]:
    """The paths of the commit. Raises `ValueError` for one that must not be written."""
    paths = [path for path in _git(folder, "ls-files", "-z").split("\0") if path]
    for path in paths:
        if fault := path_fault(path):
            raise ValueError(f"git's tree has a path that must not be written, {path!r}: {fault}")
    return paths


def _lfs_files(folder: Path) -> dict[str, str]:
    rows = (line.split(" ", 2) for line in _git(folder, "lfs", "ls-files", "--long", "HEAD").splitlines())
    return {path: oid for oid, _, path in rows}


def _lfs_object(folder: Path, oid: str) -> Path:
    return folder / ".git" / "lfs" / "objects" / oid[:2] / oid[2:4] / oid


def _rename_partials(folder: Path) -> None:
    """Give the partial files of a killed git-lfs the name that it resumes from.

    While it writes, `<oid>.part` is called `<oid><random>`; only an orderly end names it back (3.3.0, measured).
    """
    partials = [path for path in (folder / ".git" / "lfs" / "incomplete").glob("*") if re.fullmatch(r"[0-9a-f]{64}\d+", path.name)]
    for partial in sorted(partials, key=lambda path: path.stat().st_size):
        partial.replace(partial.with_name(partial.name[:64] + ".part"))


def _fetch_large(folder: Path, address: str) -> None:
    """`git lfs fetch`, ended at the first busy answer: git-lfs waits in silence, for as long as it is asked to. Raises `GitFailed`."""
    _rename_partials(folder)
    trace = lfs_trace.Trace(urlsplit(address).netloc)
    with subprocess.Popen(
        ["git", *_settings(), "lfs", "fetch", "origin", "HEAD"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "GIT_CURL_VERBOSE": "1", "GIT_TRACE": "0"},
        text=True,
        errors="replace",
    ) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if trace.take(line) and (trace.busy or trace.circle):
                _end_family(child.pid)
    sys.stderr.write("".join(f"{words}\n" for words in trace.words if words.strip()))
    if child.returncode:
        words = printed.from_git("\n".join(trace.words)).links
        raise GitFailed(f"git lfs fetch ended with code {child.returncode}", [*trace.answers, *words])


def _end_family(pid: int) -> None:
    """SIGKILL to a process and those it started: git runs git-lfs as a child."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        _end_family(int(child))
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _link(stored: Path, path: Path) -> None:
    if path.exists() and path.samefile(stored):
        return
    with beside(path) as draft:
        os.link(stored, draft)


def _asked(folder: Path, address: str, *arguments: str) -> None:
    """A git that asks the hub: of an answer that is an error, the status and what its headers say too. Raises `GitFailed`."""
    done = _run(folder, *arguments, environment={"GIT_CURL_VERBOSE": "1"})
    words, answer = lfs_trace.of_git(done.stderr, urlsplit(address).netloc)
    sys.stderr.write(words)
    if done.returncode:
        raise GitFailed(_ended(arguments, done.returncode), [*([answer] if answer else []), *printed.from_git(words).links])


def _git(folder: Path, *arguments: str) -> str:
    """What git prints; its errors go to the log too. Raises `GitFailed`."""
    done = _run(folder, *arguments)
    sys.stderr.write(done.stderr)
    if done.returncode:
        raise GitFailed(_ended(arguments, done.returncode), printed.from_git(done.stderr).links)
    return done.stdout


def _ended(arguments: Sequence[str], code: int) -> str:
    return f"git {' '.join(arguments)[:60]} ended with code {code}"


def _run(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", *_settings(), *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
        env={**os.environ, **(environment or {})},
    )


def _settings() -> list[str]:
    return [word for name, value in OWN_SETTINGS.items() for word in ("-c", f"{name}={value}")]
