"""One call of `download`: its checked arguments, what is there already, what is still to come, and the room it needs.

Does not cover: fetching (`downloads`), what a way needs (`sources`). Used by notebook 02 through `labkit.download` and `labkit.preview`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from ..common import disk
from ..common.errors import SettingError
from ..models import manifests
from ..models.listing import Listing
from ..models.manifests import Verification
from ..models.profiles import Profile
from ..models.profiles import profile as find_profile
from . import sources
from .arrivals import Arrivals
from .endpoints import Hub
from .patience import Patience
from .sources import Source
from .verdicts import Asked

ASIDE_LIMIT = 64 * 2**20
"""A wrong file up to this many bytes is renamed to <name>.wrong (it may be somebody's edit), a larger one is deleted."""
CACHE_BYTES = 16 * 2**20
"""Locks and records that a client keeps in its cache even when the model goes elsewhere."""


@dataclass
class Task:
    """One call of `download`. `known` carries digests from check to check, `patience` the waiting for a busy hub."""

    profile: Profile
    source: Source
    folder: Path | None
    hub: Hub
    proxy: bool
    stop_at: float | None = None
    known: dict[str, str] = field(default_factory=dict)
    patience: Patience = field(default_factory=Patience)

    @property
    def model(self) -> str:
        """The model's id at this hub."""
        return self.source.model(self.profile)

    @property
    def root(self) -> Path:
        """The folder below which all bytes of the model land."""
        return self.folder or sources.cache_root(self.source.name, self.model)

    @property
    def weights(self) -> bool:
        """Whether the model has any."""
        return self.profile.weights != "dummy"

    @property
    def place(self) -> Path | None:
        """The model's folder as far as it is known before the client has run."""
        return self.folder or sources.cached_folder(self.source.name, self.model)

    def finished(self) -> tuple[Path, Listing] | None:
        """The folder and its list, if an earlier download ended there and nothing has changed since."""
        folder = self.place
        manifest = manifests.read(folder) if folder else None
        if folder is None or manifest is None or manifest["profile"] != self.profile.name or not manifests.verify(folder, quick=True):
            return None
        return folder, manifests.listed(manifest)

    def ask(self) -> Listing:
        """What the hub says the model consists of. Raises `DownloadError`."""
        return self.source.listing(self.asked(), self.hub, proxy=self.proxy, patience=self.patience)

    def asked(self) -> Asked:
        """Who is asked for what, for the words of a failure."""
        return self.source.asked(self.profile, self.hub, proxy=self.proxy, place=self.root)

    def check(self, listing: Listing, folder: Path | None = None) -> Verification:
        """What of the list lies in `folder`, by default where the model is or will be. Nothing is hashed twice."""
        return manifests.check(folder or self.place or self.root, listing, weights=self.weights, known=self.known)

    def bytes_on_disk(self, listing: Listing) -> int:
        """Bytes of the listed files that are there, whole and partial."""
        return self._arrivals().bytes(listing.files)

    def bytes_to_come(self, listing: Listing, state: Verification) -> int:
        """Bytes that are not on disk yet, partial files taken into account."""
        absent = [file for file in listing.files if file.path in {*state.missing, *state.wrong}]
        return sum(file.size for file in absent) - self._arrivals().partial(absent)

    def _arrivals(self) -> Arrivals:
        return Arrivals(self.source.name, self.root, self.place, self.folder is not None)

    def room_needed(self, listing: Listing, state: Verification) -> dict[Path, int]:
        """Bytes to be written below each folder. Clients write next to the target; ModelScope joins parts if told to."""
        parts = int(os.environ.get("MODELSCOPE_DOWNLOAD_PARALLEL_WORKERS") or os.environ.get("MODELSCOPE_DOWNLOAD_PARALLELS") or 1)
        twice = max(file.size for file in listing.files) if self.source.name == "modelscope" and parts > 1 else 0
        caches = [sources.cache_root(self.source.name, self.model)] if self.source.by_id else []
        return {cache: CACHE_BYTES for cache in caches} | {self.root: self.bytes_to_come(listing, state) + twice + disk.MARGIN}

    def prepare(self, state: Verification) -> None:
        """Take away the manifest and the wrong files, so that what follows can never look done before it is."""
        (state.folder / manifests.NAME).unlink(missing_ok=True)
        self.discard_wrong(state)
        if state.wrong:
            self.discard_lfs_partials()

    def discard_wrong(self, state: Verification, *, keep: bool = True) -> None:
        """Take away the wrong files. `keep`: a small one, which may be somebody's edit, is kept beside as <name>.wrong."""
        for name in state.wrong:
            path = state.folder / name
            if keep and path.stat().st_size <= ASIDE_LIMIT:
                path.rename(_aside(path)) if self.folder else _blob(path).replace(_aside(path))
            elif not self.folder:
                _blob(path).unlink()
            else:
                self._discard_lfs_object(path)
            path.unlink(missing_ok=True)

    def discard_lfs_partials(self) -> None:
        """Take away what git-lfs would go on from."""
        for partial in (self.root / ".git" / "lfs" / "incomplete").glob("*"):
            partial.unlink()

    def _discard_lfs_object(self, path: Path) -> None:
        """Take away the object of git-lfs that is one file with `path`: what was written into one is wrong in both."""
        if path.stat().st_nlink > 1:
            for stored in (self.root / ".git" / "lfs" / "objects").rglob("*"):
                if stored.is_file() and stored.samefile(path):
                    stored.unlink()
                    return


def _aside(path: Path) -> Path:
    """A free name beside `path`: <name>.wrong, <name>.wrong.2 and so on; an earlier one is somebody's edit too."""
    names = (path.with_name(f"{path.name}.wrong{f'.{number}' if number > 1 else ''}") for number in count(1))
    return next(name for name in names if not os.path.lexists(name))


def _blob(path: Path) -> Path:
    """Where the bytes lie: in Hugging Face's cache `path` is a link to them."""
    return path.resolve()


def make_task(profile: str | Profile, source: str, folder: Path | str | None, hub: Hub | None, by: str, proxy: bool | None) -> Task:
    """The checked arguments of one call; raises `SettingError` before anything is asked or written."""
    model = profile if isinstance(profile, Profile) else find_profile(profile)
    way = sources.find(source)
    return Task(model, way, _checked_place(model, way, folder, by), hub or Hub(), way.proxy if proxy is None else proxy)


def _checked_place(profile: Profile, way: Source, folder: Path | str | None, by: str) -> Path | None:
    if by not in ("path", "id"):
        raise SettingError(f"by={by!r} is neither way.", 'Use by="path" (a folder of yours) or by="id" (the client\'s cache).')
    if by == "id":
        if folder is not None or not way.by_id:
            reason = "by id, the client chooses the folder" if folder is not None else "git knows no model ids"
            raise SettingError(f'by="id" does not go with this: {reason}.', 'Use by="path", or leave `folder` out.')
        return None
    place = Path(folder).expanduser().absolute() if folder is not None else profile.folder()
    lost = next((part for part in (place, *place.parents) if part.is_symlink() and not part.exists()), None)
    if lost:
        cause = f"{lost} is a link to {os.readlink(lost)}, which is not there."
        raise SettingError(cause, "Is that disk mounted? Else make the folder it leads to, or name another one: folder=..., LABKIT_HOME.")
    if place.exists() and not place.is_dir():
        raise SettingError(f"{place} is a file, not a folder.", "Name another folder.")
    other = manifests.read(place)
    if other and other["profile"] != profile.name:
        raise SettingError(f"{place} holds another model: {other['profile']}.", "Name another folder.")
    return place
