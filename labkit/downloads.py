"""Downloads a course model with a real client: sized before, watched while it runs, resumed, verified after.

Covers: `download`, `preview`, `where`, `download_lines`; one download per folder at a time; the process that the client runs in.
Does not cover: what a client is told (`fetch`), endpoints and failures (`sources`), checks (`manifests`), hubs (`hubs`).
Used by notebook 02.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from . import manifests, sources, space
from .errors import DownloadError, SettingError
from .fetch import Job
from .hubs import Hub, open_hub, real_hub
from .listings import Listing, RemoteFile
from .manifests import Verification
from .profiles import Profile
from .profiles import profile as find_profile
from .progress import Progress, amount_text
from .settings import settings
from .sources import Source
from .space import Space

POLL_SECONDS = 0.1
STALL_SECONDS = 20.0
ASIDE_LIMIT = 64 * 2**20
"""A wrong file up to this many bytes is renamed to <name>.wrong (it may be somebody's edit), a larger one is deleted."""
CACHE_BYTES = 16 * 2**20
"""Locks and records that a client keeps in its cache even when the model goes elsewhere."""


@dataclass(frozen=True)
class Download:
    """What `download` did: bytes of the whole model, and how many of them were `already` on disk when it began."""

    profile: str
    source: str
    folder: Path
    files: int
    bytes: int
    already: int
    seconds: float

    @property
    def fetched(self) -> int:
        """Bytes that this call brought."""
        return self.bytes - self.already

    def __str__(self) -> str:
        amount = f"{amount_text(self.fetched, 'B')} fetched, {amount_text(self.already, 'B')} were there"
        return f"{self.profile}: {self.files} files, {amount}, {self.seconds:.1f} s ({self.source})\n{self.folder}"


@dataclass(frozen=True)
class Preview:
    """What a download would take: the hub's list, bytes that are not here yet, and the file systems it touches."""

    listing: Listing
    to_come: int
    spaces: tuple[Space, ...]

    @property
    def fits(self) -> bool:
        return all(place.fits for place in self.spaces)

    def __str__(self) -> str:
        files = [f"{amount_text(file.size, 'B'):>10}  {file.path}" for file in self.listing.files]
        total = f"{amount_text(self.listing.bytes, 'B'):>10}  in {len(files)} files, {amount_text(self.to_come, 'B')} still to come"
        return "\n".join([*files, total, *(str(place) for place in self.spaces)])


@dataclass
class _Task:
    """One call of `download`. `known` carries digests from check to check."""

    profile: Profile
    source: Source
    folder: Path | None
    hub: Hub
    proxy: bool
    stop_at: float | None = None
    known: dict[str, str] = field(default_factory=dict)

    @property
    def model(self) -> str:
        return self.source.model(self.profile)

    @property
    def root(self) -> Path:
        return self.folder or sources.cache_root(self.source.name, self.model)

    @property
    def weights(self) -> bool:
        return self.profile.weights != "dummy"

    def place(self) -> Path | None:
        """The model's folder as far as it is known before the client has run."""
        return self.folder or sources.cached_folder(self.source.name, self.model)


def download(
    profile: str | Profile = "auto",
    source: str = "modelscope",
    folder: Path | str | None = None,
    hub: Hub | None = None,
    *,
    by: str = "path",
    proxy: bool | None = None,
    stop_at: float | None = None,
) -> Download:
    """Get a model, whole and verified, and return what was done; a second call takes milliseconds and no bytes.

    `source` is "modelscope", "huggingface" or "git-lfs". By path (the default) the files land in `folder`, by default
    the profile's own; `by="id"` leaves the place to the client: its cache, where engines find a model by its id.
    `hub` is what `open_hub` gave; without it one is opened for this call. `proxy` None: Hugging Face goes through the
    proxy of the environment, ModelScope and git do not. `stop_at` (0 to 1) kills the client at that share of the bytes
    and raises `DownloadError`: to practise an interruption.

    Before the first byte: the file list from the hub and free space on every file system. Whatever ends it (stop
    button, kill, power), what arrived is kept and the next call goes on from there; only a verified folder gets its
    `labkit.manifest.json`. Wrong files are fetched once more. Raises `SettingError`, `NoSpace`, `VerificationError`,
    `DownloadError`, and `LabError` where git-lfs is not installed.
    """
    started = time.monotonic()
    task = _task(profile, source, folder, hub, by, proxy)
    task.stop_at = stop_at
    there = _finished(task)
    if there:
        return _report(task, *there, there[1].bytes, started)
    task.source.require()
    if hub is not None:
        return _run(task, started)
    with open_hub(task.profile) as task.hub:
        return _run(task, started)


def preview(
    profile: str | Profile = "auto",
    source: str = "modelscope",
    folder: Path | str | None = None,
    hub: Hub | None = None,
    *,
    by: str = "path",
    proxy: bool | None = None,
) -> Preview:
    """What `download` with the same arguments would take; asks the hub for its list and writes nothing.

    Files that are here with the right size count as here. Raises `SettingError` and `DownloadError`.
    """
    task = _task(profile, source, folder, hub, by, proxy)
    with open_hub(task.profile) if hub is None else nullcontext(hub) as task.hub:
        listing = task.source.listing(task.profile, task.hub, proxy=task.proxy)
    found = manifests.glance(task.place() or task.root, listing)
    return Preview(listing, _to_come(task, listing, found), tuple(space.survey(_needs(task, listing, found))))


def where(profile: str | Profile = "auto") -> dict[str, Path]:
    """Where each way leaves the model: by path, and by id in each client's cache; nothing is created."""
    wanted = profile if isinstance(profile, Profile) else find_profile(profile)
    by_id = {f"{way.name}, by id": sources.cache_root(way.name, way.model(wanted)) for way in sources.SOURCES.values() if way.by_id}
    return {"by path": wanted.folder(), **by_id}


def download_lines(profile: str | Profile = "auto", source: str = "modelscope", hub: Hub | None = None, *, by: str = "path") -> str:
    """The same download as plain shell lines to paste in a terminal; they neither size nor verify anything.

    Raises `SettingError` for a model of labkit's own hub without that `hub`: its address is part of the lines.
    """
    task = _task(profile, source, None, hub, by, None)
    if hub is None and task.profile.local:
        raise SettingError(f"{task.profile.name} is on no public hub.", "Pass the hub: with labkit.open_hub(profile) as hub: ...")
    return "\n".join(sources.shell_lines(task.source, task.profile, hub or real_hub(), task.folder))


def _task(profile: str | Profile, source: str, folder: Path | str | None, hub: Hub | None, by: str, proxy: bool | None) -> _Task:
    """The checked arguments of one call; raises `SettingError` before anything is asked or written."""
    wanted = profile if isinstance(profile, Profile) else find_profile(profile)
    way = sources.find(source)
    return _Task(wanted, way, _checked_place(wanted, way, folder, by), hub or Hub(), way.proxy if proxy is None else proxy)


def _checked_place(profile: Profile, way: Source, folder: Path | str | None, by: str) -> Path | None:
    if by not in ("path", "id"):
        raise SettingError(f"by={by!r} is neither way.", 'Use by="path" (a folder of yours) or by="id" (the client\'s cache).')
    if by == "id":
        if folder is not None or not way.by_id:
            reason = "by id, the client chooses the folder" if folder is not None else "git knows no model ids"
            raise SettingError(f'by="id" does not go with this: {reason}.', 'Use by="path", or leave `folder` out.')
        return None
    place = Path(folder).expanduser().absolute() if folder is not None else profile.folder()
    if place.exists() and not place.is_dir():
        raise SettingError(f"{place} is a file, not a folder.", "Name another folder.")
    other = manifests.read(place)
    if other and other["profile"] != profile.name:
        raise SettingError(f"{place} holds another model: {other['profile']}.", "Name another folder.")
    return place


def _finished(task: _Task) -> tuple[Path, Listing] | None:
    """The folder and its list, if an earlier download ended there and nothing has changed since."""
    folder = task.place()
    manifest = manifests.read(folder) if folder else None
    if folder is None or manifest is None or manifest["profile"] != task.profile.name or not manifests.verify(folder, quick=True):
        return None
    return folder, Listing(manifest["model"], tuple(RemoteFile(row["path"], row["size"], row["digest"]) for row in manifest["files"]))


def _run(task: _Task, started: float) -> Download:
    listing = task.source.listing(task.profile, task.hub, proxy=task.proxy)
    with _only_one(task.root) as lock:
        found = _survey(task, listing)
        already = listing.bytes - _to_come(task, listing, found)
        if not found:
            space.require(_needs(task, listing, found))
            _forget(task, found)
            folder, found = _fetch(task, listing, found, lock)
        else:
            folder = found.folder
        manifests.write(folder, listing, profile=task.profile.name, source=task.source.name, weights=task.weights, known=task.known)
    return _report(task, folder, listing, already, started)


def _report(task: _Task, folder: Path, listing: Listing, already: int, started: float) -> Download:
    seconds = time.monotonic() - started
    return Download(task.profile.name, task.source.name, folder, len(listing.files), listing.bytes, already, seconds)


def _survey(task: _Task, listing: Listing) -> Verification:
    """What of the list is there before anything is fetched."""
    place = task.place()
    if place is None or not place.is_dir():
        return Verification(place or task.root, files=len(listing.files), missing=[file.path for file in listing.files])
    return manifests.check(place, listing, weights=task.weights, known=task.known)


def _to_come(task: _Task, listing: Listing, found: Verification) -> int:
    """Bytes that are not on disk yet, partial files taken into account."""
    absent = {*found.missing, *found.wrong}
    missing = sum(file.size for file in listing.files if file.path in absent)
    whole = sum(file.size for file in listing.files if file.path not in absent)
    wrong = sum((found.folder / path).stat().st_size for path in found.wrong)
    return max(0, missing - max(0, _bytes_under(task.root) - whole - wrong))


def _needs(task: _Task, listing: Listing, found: Verification) -> dict[Path, int]:
    """Bytes to be written below each folder. Clients write next to the target; ModelScope joins parts if told to."""
    parts = int(os.environ.get("MODELSCOPE_DOWNLOAD_PARALLEL_WORKERS") or os.environ.get("MODELSCOPE_DOWNLOAD_PARALLELS") or 1)
    twice = max(file.size for file in listing.files) if task.source.name == "modelscope" and parts > 1 else 0
    caches = [sources.cache_root(way.name, task.model) for way in (task.source,) if way.by_id]
    needs = {cache: CACHE_BYTES for cache in caches}
    return needs | {task.root: _to_come(task, listing, found) + twice + space.MARGIN}


def _forget(task: _Task, found: Verification) -> None:
    """Take away the proof and the wrong files, so that what follows can never look done before it is."""
    (found.folder / manifests.NAME).unlink(missing_ok=True)
    for path in found.wrong:
        _set_aside(found.folder / path)
    if found.wrong:
        _drop_lfs_partials(task.root)


def _set_aside(path: Path) -> None:
    real = path.resolve()
    if path.is_symlink():
        path.unlink()  # in Hugging Face's cache the bytes lie behind a link
    if real.stat().st_size > ASIDE_LIMIT or real != path.absolute():
        real.unlink()
    else:
        real.replace(real.with_name(real.name + ".wrong"))


def _drop_lfs_partials(root: Path) -> None:
    for partial in (root / ".git" / "lfs" / "incomplete").glob("*"):
        partial.unlink()


def _fetch(task: _Task, listing: Listing, found: Verification, lock: int) -> tuple[Path, Verification]:
    """Run the client, check, and run it once more for what is missing or wrong."""
    for last in (False, True):
        folder, failure, again = _client(task, listing, found, lock)
        found = manifests.check(folder or task.place() or task.root, listing, weights=task.weights, known=task.known)
        if found:
            return found.folder, found
        for path in found.wrong:
            _set_aside(found.folder / path)
        if last or not again or found.unreadable:
            raise failure or found.error()
        _drop_lfs_partials(task.root)
    raise AssertionError("the loop above returns or raises")


def _client(task: _Task, listing: Listing, found: Verification, lock: int) -> tuple[Path | None, DownloadError | None, bool]:
    """One run of the client: (folder, None, True), or (None, what went wrong, whether a second run could help)."""
    absent = {*found.missing, *found.wrong}
    log = settings().logs / f"download-{task.profile.name}-{task.source.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    task.root.mkdir(parents=True, exist_ok=True)
    result = log.with_suffix(".folder")
    result.unlink(missing_ok=True)
    kept = tuple(file.path for file in listing.files if file.path not in absent)
    endpoint = task.source.endpoint(task.hub)
    job = Job(task.source.name, task.model, endpoint, task.root, task.folder, result, listing.files, kept)
    code = _watched(task, job, listing.bytes, log, lock)
    if code == 0:
        return Path(result.read_text()), None, True
    failure, again = sources.explain(task.source, log.read_text(errors="replace")[-20_000:], code, log)
    return None, failure, again


def _watched(task: _Task, job: Job, total: int, log: Path, lock: int) -> int:
    """Run the job in its own process group with a bar, and return its exit code; whatever ends this ends the group."""
    env = task.source.environment(task.hub, proxy=task.proxy)
    package_parent = str(Path(__file__).resolve().parent.parent)
    env["PYTHONPATH"] = os.pathsep.join(part for part in (package_parent, env.get("PYTHONPATH", "")) if part)
    command = [sys.executable, "-m", "labkit.fetch"]
    with log.open("wb") as stream:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=stream, stderr=subprocess.STDOUT, env=env, start_new_session=True, pass_fds=(lock,)
        )
    try:
        assert child.stdin is not None
        child.stdin.write((job.to_json() + "\n").encode())
        child.stdin.flush()
        _follow(task, child, total)
        return child.wait()
    finally:
        _end_group(child)


def _follow(task: _Task, child: subprocess.Popen[bytes], total: int) -> None:
    """Show bytes on disk until the client ends; all three clients can be watched this way."""
    start = moved = time.monotonic()
    first = last = _bytes_under(task.root)
    with Progress(f"Downloading {task.model} from {task.source.title}", total=total, unit="B") as bar:
        while child.poll() is None:
            done, now = _bytes_under(task.root), time.monotonic()
            if done != last:
                last, moved = done, now
            bar.update(min(done, total), _pace(done - first, total - done, now - start, now - moved))
            if task.stop_at is not None and done >= task.stop_at * total:
                raise DownloadError(f"Stopped at {done / total:.0%}, as stop_at asked.", "Run the download again: it goes on from here.")
            time.sleep(POLL_SECONDS)
        bar.update(min(_bytes_under(task.root), total))


def _pace(moved: int, left: int, seconds: float, still: float) -> str:
    if still > STALL_SECONDS:
        return f"no new bytes for {still:.0f} s"
    if seconds < 2 or moved <= 0:
        return ""
    rate = moved / seconds
    return f"{rate / 1e6:.1f} MB/s, {max(0, left) / rate / 60:.0f} min left"


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """SIGKILL, because huggingface_hub deletes its partial file when it is asked politely."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if child.stdin:
        child.stdin.close()


def _bytes_under(root: Path) -> int:
    """Bytes of model files below `root`, whole and partial, hard links counted once."""
    seen: dict[int, int] = {}
    for folder, names, files in os.walk(root):
        if os.path.basename(folder) == ".git":
            names[:] = [name for name in names if name == "lfs"]
            continue
        for name in files:
            if name == manifests.NAME or name.endswith(".wrong"):
                continue
            try:
                state = os.lstat(os.path.join(folder, name))
            except OSError:
                continue  # renamed meanwhile
            seen[state.st_ino] = state.st_size
    return sum(seen.values())


@contextmanager
def _only_one(root: Path) -> Iterator[int]:
    """One download per folder: the lock's descriptor goes to the client too, so it holds as long as anybody writes."""
    path = settings().state / "locks" / f"download-{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise DownloadError(
                f"Another download to {root} is running (process {stream.read().strip() or 'unknown'}).",
                "Wait for it, or stop that notebook or process.",
            ) from None
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield stream.fileno()
