"""What a hub says a model consists of: paths, sizes and digests of its files, as data; and whether its paths can be written.

`labkit.hub.listings` asks a hub for it, `manifests` holds a folder against it, and the client of a download gets it as its request.
Used by notebook 02 through `labkit.download`, `labkit.preview` and `labkit.verify`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

LONGEST_NAME, LONGEST_PATH = 240, 1024
"""Bytes. File systems take 255 for a name; clients add an ending such as ".incomplete" while they write."""
RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\.|$)")
"""Device names of Windows, with any ending. (https://learn.microsoft.com/windows/win32/fileio/naming-a-file)"""


@dataclass(frozen=True)
class RemoteFile:
    """One file: path in the model folder, bytes, and its `digest` as "sha256:..." or "git:..." (blob id), "" if not told."""

    path: str
    size: int
    digest: str = ""

    @property
    def hash(self) -> str:
        """The digest without its kind: how clients name what they have not finished."""
        return self.digest.partition(":")[2]


@dataclass(frozen=True)
class Listing:
    """All files of one model at one hub. `revision` is the commit that was listed, "" where the hub does not tell."""

    model: str
    files: tuple[RemoteFile, ...]
    revision: str = ""

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(file.size for file in self.files)


def path_fault(path: object) -> str:
    """Why `path`, from somebody else's list, must not be written below a folder, in a few words; "" if it may."""
    if not isinstance(path, str) or not path.strip():
        return "it has no name"
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in path):
        return "it has a control character in it"
    if any(unicodedata.category(sign) in ("Cc", "Cf", "Zl", "Zp") for sign in path):
        return "it has a sign in it that is not seen, such as one that turns the order of reading"
    if path.startswith(("/", "~")):
        return "it is an absolute path"
    if re.match(r"[A-Za-z]:", path):
        return "it begins with a drive letter of Windows"
    if "\\" in path:
        return "it has a backslash in it, which Windows takes for a folder"
    parts = path.split("/")
    if ".." in parts:
        return "it leads out of the model's folder"
    if "" in parts or "." in parts:
        return "it has an empty part"
    if any(part.lower() == ".git" for part in parts):
        return "it would be written into git's own folder"
    if reserved := next((part for part in parts if RESERVED.match(part)), ""):
        return f"{reserved} is the name of a device on Windows"
    if any(part.endswith((".", " ")) for part in parts):
        return "a part of it ends with a dot or a blank, which Windows drops"
    try:
        longest, whole = max(len(part.encode()) for part in parts), len(path.encode())
    except UnicodeEncodeError:
        return "it is no Unicode text"
    return "it is too long for a file system" if longest > LONGEST_NAME or whole > LONGEST_PATH else ""


def clash(paths: Iterable[str]) -> str:
    """Two of `paths` that cannot lie in one folder, in a few words; "" if all can."""
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            return f"{path!r} stands in it twice"
        seen.add(path)
    for path in sorted(seen):
        parts = path.split("/")
        above = next((there for end in range(1, len(parts)) if (there := "/".join(parts[:end])) in seen), "")
        if above:
            return f"{above!r} is a file and the folder of {path!r} at once"
    return ""
