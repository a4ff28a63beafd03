"""Downloads a course model with a real client: sized before, watched while it runs, resumed, verified after.

Covers: `download`, `preview`, `where`, `download_lines`; one download per folder at a time; a second try.
Does not cover: what a client is told (`job`, `client`), its process (`process`), what failures mean (`failures`), checks
(`models.manifests`), hubs (`endpoints`, `loopback`).
Used by notebook 02.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from ..common import disk
from ..common.amounts import amount_text
from ..common.disk import Space
from ..common.errors import DownloadError, SettingError, VerificationError
from ..common.locks import Busy, locked
from ..common.settings import settings
from ..models import manifests
from ..models.bare_folders import TOKENIZERS
from ..models.contents import Content
from ..models.headers import INDEX, UNREADABLE, Index
from ..models.listing import Listing, RemoteFile
from ..models.manifests import Verification
from ..models.profiles import Profile
from ..models.profiles import profile as find_profile
from . import client, failures, glances, printed, process, sources
from .endpoints import Hub, real_hub
from .evidence import Evidence, from_error, of_the_disk
from .job import Fetched, Job
from .loopback import open_hub
from .process import Watch
from .task import Task, make_task
from .verdicts import Mishap

CLIENT = Path(client.__file__)
CONFIG = "config.json"
LOOKED_AT = 3
"""How many files are asked for once more to see what a hub sends in their place."""


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
    task = make_task(profile, source, folder, hub, by, proxy)
    task.stop_at = stop_at
    there = task.finished()
    if there:
        return _report(task, *there, there[1].bytes, started)
    task.source.require()
    with open_hub(task.profile) if hub is None else nullcontext(hub) as task.hub:
        try:
            return _run(task, started)
        except OSError as error:
            found = from_error(error)
            if not of_the_disk(found):
                raise
            raise failures.classify(found, task.asked()).raised() from error


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
    task = make_task(profile, source, folder, hub, by, proxy)
    with open_hub(task.profile) if hub is None else nullcontext(hub) as task.hub:
        listing = task.ask()
    state = manifests.glance(task.place or task.root, listing)
    return Preview(listing, task.bytes_to_come(listing, state), tuple(disk.survey(task.room_needed(listing, state))))


def where(profile: str | Profile = "auto") -> dict[str, Path]:
    """Where each way leaves the model: by path, and by id in each client's cache; nothing is created."""
    model = profile if isinstance(profile, Profile) else find_profile(profile)
    by_id = {f"{way.name}, by id": sources.cache_root(way.name, way.model(model)) for way in sources.SOURCES.values() if way.by_id}
    return {"by path": model.folder(), **by_id}


def download_lines(profile: str | Profile = "auto", source: str = "modelscope", hub: Hub | None = None, *, by: str = "path") -> str:
    """The same download as plain shell lines to paste in a terminal; they neither size nor verify anything.

    Raises `SettingError` for a model of labkit's own hub without that `hub`: its address is part of the lines.
    """
    task = make_task(profile, source, None, hub, by, None)
    if hub is None and task.profile.local:
        raise SettingError(f"{task.profile.name} is on no public hub.", "Pass the hub: with labkit.open_hub(profile) as hub: ...")
    return "\n".join(sources.shell_lines(task.source, task.profile, hub or real_hub(), task.folder))


def _run(task: Task, started: float) -> Download:
    listing = task.ask()
    with _only_one(task.root) as lock:
        state = task.check(listing)
        already = listing.bytes - task.bytes_to_come(listing, state)
        if not state:
            disk.require(task.room_needed(listing, state))
            task.prepare(state)
            state, listing = _fetch(task, listing, state, lock)
        state, listing = _completed(task, state, listing)
        folder, names = state.folder, {"profile": task.profile.name, "source": task.source.name}
        manifests.write(folder, listing, **names, weights=task.weights, known=task.known)
    return _report(task, folder, listing, min(already, listing.bytes), started)


def _report(task: Task, folder: Path, listing: Listing, already: int, started: float) -> Download:
    seconds = time.monotonic() - started
    return Download(task.profile.name, task.source.name, folder, len(listing.files), listing.bytes, already, seconds)


def _fetch(task: Task, listing: Listing, state: Verification, lock: int) -> tuple[Verification, Listing]:
    """Run the client, check, and run it once more for what is missing or wrong, by a list that was asked for anew."""
    for last in (False, True):
        fetched, error, failure = _client(task, listing, state, lock)
        state = task.check(listing, fetched.folder if fetched else None)
        unlisted = _unlisted(task, state, listing)
        if state and (last or not unlisted):
            return state, replace(listing, revision=(fetched.revision if fetched else "") or listing.revision)
        listing, changed = (listing, False) if last else _asked_anew(task, listing)
        if state and not changed:
            return state, listing
        if changed:
            state = task.check(listing, state.folder)
        elif last or state.unreadable or (failure and not failure.again):
            raise _told(task, listing, state, error, failure)
        task.discard_wrong(state, keep=False)
        task.discard_lfs_partials()
    raise AssertionError("the loop above returns or raises")


def _unlisted(task: Task, state: Verification, listing: Listing) -> set[str]:
    """Files that every model has, or that the index names, and the list did not: it was cut short."""
    try:
        needed = {*(Index.read(state.folder).files or {}).values()}
    except UNREADABLE:
        needed = set()
    listed = {file.path for file in listing.files}
    needed |= {INDEX} if (state.folder / INDEX).is_file() else set()
    if task.weights:
        there = [name for name in TOKENIZERS if (state.folder / name).is_file()]
        needed |= {CONFIG} if listed & {*TOKENIZERS} else {CONFIG, *there[:1]} if there else {CONFIG, TOKENIZERS[0]}
    return needed - listed


def _completed(task: Task, state: Verification, listing: Listing) -> tuple[Verification, Listing]:
    """The list with what it lacks and what came all the same, as git brings it. Raises `VerificationError` for what did not come."""
    unlisted = sorted(_unlisted(task, state, listing))
    if lost := [name for name in unlisted if not (state.folder / name).is_file()]:
        cause = f"{task.asked().host}'s list of files for {task.model} is cut short: {', '.join(lost)} is not in it."
        raise VerificationError(cause, "Try again later, or take another source.")
    if not unlisted:
        return state, listing
    more = [RemoteFile(name, (state.folder / name).stat().st_size) for name in unlisted]
    whole = replace(listing, files=tuple(sorted((*listing.files, *more), key=lambda file: file.path)))
    return task.check(whole, state.folder), whole


def _asked_anew(task: Task, listing: Listing) -> tuple[Listing, bool]:
    """The hub's list as it is now, and whether it is another: somebody may have uploaded meanwhile."""
    try:
        now = task.ask()
    except DownloadError:
        return listing, False
    return now, now.files != listing.files


def _told(
    task: Task, listing: Listing, state: Verification, error: DownloadError | SettingError | None, failure: Mishap | None
) -> DownloadError | SettingError:
    """The error to raise. Where bytes are not those of the list, what the hub sends instead is looked at."""
    task.discard_wrong(state, keep=False)
    if failure is None or failure.kind in ("bytes", "broken", "unknown", "strange"):
        absent = [file for file in listing.files if file.path in {*state.missing, *state.wrong}]
        for file in sorted(absent, key=lambda file: (file.path not in str(error), -file.size))[:LOOKED_AT]:
            address = task.source.address(task.hub, task.model, file, listing.revision)
            found = glances.look(address, proxy=task.proxy and not task.hub.local)
            if isinstance(found, Content):
                cause = f"{task.asked().host} does not send the model's files: what comes for {file.path} is {found.title}."
                return VerificationError(cause, found.fix)
            if found and failure and failure.kind == "strange":
                return failures.classify(found, task.asked()).raised()
    if error is None and state.wrong and not state.missing:
        differences = "; ".join(f"{name}: {state.differences[name]}" for name in state.wrong)
        cause = f"The hub delivered other bytes than it lists ({differences})."
        return VerificationError(
            cause, "Its list or its copy is wrong, and again when tried anew: try again later, or take another source."
        )
    return error or state.error()


def _client(
    task: Task, listing: Listing, state: Verification, lock: int
) -> tuple[Fetched | None, DownloadError | SettingError | None, Mishap | None]:
    """One run of the client: where it left the model, or what went wrong and what kind of failure that is."""
    absent = {*state.missing, *state.wrong}
    log = settings().logs / f"download-{task.profile.name}-{task.source.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    task.root.mkdir(parents=True, exist_ok=True)
    kept = tuple(file.path for file in listing.files if file.path not in absent)
    asked = task.asked()
    job = Job(
        task.source.name, task.model, asked.endpoint, task.root, task.folder, listing.files, kept, listing.revision, task.patience.left
    )
    watch = Watch(f"Downloading {task.model} from {task.source.title}", lambda: task.bytes_on_disk(listing), listing.bytes, task.stop_at)
    environment = task.source.environment(task.hub, proxy=task.proxy)
    ended = process.run(CLIENT, job.as_request(), watch, environment=environment, log=log, pass_fds=(lock,))
    if ended.code == 0 and ended.result:
        return Fetched.from_result(ended.result), None, None
    evidence = Evidence.from_message(ended.failure) if ended.failure else printed.from_log(log.read_text(errors="replace")[-20_000:])
    return None, *failures.explain(evidence, asked, ended.code, log)


@contextmanager
def _only_one(root: Path) -> Iterator[int]:
    """One download per folder: the lock's descriptor goes to the client too, so it holds as long as anybody writes."""
    name = f"download-{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]}"
    try:
        with locked(settings().state / "locks" / name, wait=False) as lock:
            yield lock
    except Busy as busy:
        cause = f"Another download to {root} is running (process {busy.owner})."
        raise DownloadError(cause, "Wait for it, or stop that notebook or process.") from None
