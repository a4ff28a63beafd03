"""Verification: every way a model folder can be wrong is found, and only a whole one has a manifest."""

import json
import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from labkit.common.errors import VerificationError
from labkit.hub.repository import Repository
from labkit.models import course_model, manifests
from labkit.models.headers import Weights
from labkit.models.listing import Listing, RemoteFile
from labkit.models.profiles import profile

SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return course_model.make(profile("tiny"), tmp_path / "tiny")


def listing(folder: Path, kind: str = "sha256") -> Listing:
    rows = Repository("labkit/tiny", folder).files.values()
    digests = {row.path: {"sha256": f"sha256:{row.sha256}", "git": "" if row.large else f"git:{row.blob}", "": ""}[kind] for row in rows}
    return Listing("labkit/tiny", tuple(RemoteFile(row.path, row.size, digests[row.path]) for row in rows))


def finished(folder: Path, kind: str = "sha256") -> Path:
    known: dict[str, str] = {}
    wanted = listing(folder, kind)
    assert manifests.check(folder, wanted, known=known)
    return manifests.write(folder, wanted, profile="tiny", source="modelscope", weights=True, known=known)


def edit(path: Path, at: int = -1) -> None:
    """Change one byte and keep size and time of change, as a failing disk would."""
    state, content = path.stat(), bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize("kind", ["sha256", "git", ""])
def test_a_whole_folder_passes_whatever_hashes_the_hub_gives(tiny: Path, kind: str) -> None:
    finished(tiny, kind)
    found = manifests.verify(tiny)
    assert found and found.tensors > 0
    assert found.lines() == ["files: complete", "sizes: match", "hashes: match", "safetensors: readable"]


@pytest.mark.parametrize("kind", ["sha256", ""])
def test_one_changed_byte_is_found_by_its_hash(tiny: Path, kind: str) -> None:
    finished(tiny, kind)
    edit(tiny / SHARD)
    assert manifests.verify(tiny, quick=True)
    assert manifests.verify(tiny).wrong_hash == [SHARD]


def test_a_changed_byte_in_a_small_file_is_found_by_its_git_id(tiny: Path) -> None:
    wanted = listing(tiny, "git")
    edit(tiny / "config.json", 0)
    assert manifests.check(tiny, wanted).wrong_hash == ["config.json"]


def test_missing_and_short_files_are_named(tiny: Path) -> None:
    finished(tiny)
    (tiny / "config.json").unlink()
    os.truncate(tiny / SHARD, 1000)
    found = manifests.verify(tiny)
    assert (found.missing, found.wrong_size, bool(found)) == (["config.json"], [SHARD], False)
    assert "config.json" in str(found.error()) and SHARD in str(found.error())


def test_quick_sees_a_changed_time(tiny: Path) -> None:
    finished(tiny)
    os.utime(tiny / "config.json", ns=(1, 1))
    assert manifests.verify(tiny, quick=True).wrong_size == ["config.json"]
    assert manifests.verify(tiny)


def test_a_folder_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="is not there"):
        manifests.verify(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ['{"version": 1, "files": [', "[]", '{"version": 1}', '{"version": 1, "files": [{}]}'])
def test_a_manifest_that_cannot_be_used_is_none(tiny: Path, content: str) -> None:
    (tiny / manifests.NAME).write_text(content)
    assert manifests.read(tiny) is None
    found = manifests.verify(tiny)
    assert not found and manifests.NAME in str(found)


@pytest.mark.parametrize(
    "row",
    [
        {"path": "config.json", "size": None, "digest": "", "mtime_ns": 1},
        {"path": "config.json", "size": -1, "digest": "", "mtime_ns": 1},
        {"path": "config.json", "size": 1, "digest": 5, "mtime_ns": 1},
        {"path": "../../etc/passwd", "size": 1, "digest": "", "mtime_ns": 1},
        {"path": "config.json"},
    ],
)
def test_a_manifest_with_a_row_that_cannot_be_is_told_as_damaged(tiny: Path, row: dict[str, object]) -> None:
    content = {"version": 1, "profile": "tiny", "model": "labkit/tiny", "weights": True, "files": [row]}
    (tiny / manifests.NAME).write_text(json.dumps(content))
    assert manifests.read(tiny) is None and f"{manifests.NAME} cannot be read" in str(manifests.verify(tiny))


def test_a_mismatch_shows_what_was_expected_and_what_was_found(tiny: Path) -> None:
    finished(tiny)
    edit(tiny / "config.json", 0)
    os.truncate(tiny / SHARD, 1000)
    found = str(manifests.verify(tiny).error())
    assert "expected 4,066,936 bytes, found 1,000" in found and found.count("sha256:") == 2
    assert "expected sha256:" in str(manifests.verify(tiny))


def test_the_manifest_keeps_the_commit(tiny: Path) -> None:
    wanted, known = listing(tiny), dict[str, str]()
    assert manifests.check(tiny, wanted, known=known)
    manifests.write(tiny, replace(wanted, revision="c0ffee"), profile="tiny", source="huggingface", weights=True, known=known)
    manifest = manifests.read(tiny)
    assert manifest and manifest["revision"] == "c0ffee" and manifests.listed(manifest).revision == "c0ffee"
    assert all(row["size"] >= 0 and row["digest"].startswith("sha256:") for row in manifest["files"])


def test_a_model_can_be_named_by_its_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    finished(course_model.make(profile("tiny"), profile("tiny").folder()))
    assert manifests.verify("tiny") and manifests.verify(profile("tiny")) and manifests.verify(str(profile("tiny").folder()))


def test_a_shard_that_the_hub_never_listed_is_missed_by_the_index(tiny: Path) -> None:
    (tiny / SHARD).unlink()
    tensors, wrong = manifests.read_tensors(tiny, required=True)
    assert wrong == [f"{SHARD} is named by {manifests.INDEX} and not there"]
    assert manifests.check(tiny, listing(tiny)).unreadable == wrong


def test_a_tensor_in_the_wrong_shard_is_found(tiny: Path) -> None:
    index = json.loads((tiny / manifests.INDEX).read_text())
    index["weight_map"]["model.embed_tokens.weight"] = "model-00002-of-00002.safetensors"
    (tiny / manifests.INDEX).write_text(json.dumps(index))
    assert "model.embed_tokens.weight" in manifests.read_tensors(tiny, required=True)[1][0]


@pytest.mark.parametrize("content", ["{", "{}", '{"weight_map": []}', "[]"])
def test_an_index_that_cannot_be_used_is_named_by_both_readers(tiny: Path, content: str) -> None:
    (tiny / manifests.INDEX).write_text(content)
    assert manifests.INDEX in manifests.read_tensors(tiny, required=True)[1][0]
    with pytest.raises(VerificationError, match=f"{manifests.INDEX} cannot be read"):
        Weights.read(tiny)


def test_shards_without_their_index_are_found(tiny: Path) -> None:
    (tiny / manifests.INDEX).unlink()
    assert "is missing" in manifests.read_tensors(tiny, required=True)[1][0]


@pytest.mark.parametrize(
    "content",
    [b"", b"\x08", struct.pack("<Q", 2**40) + b"{}", struct.pack("<Q", 4) + b"nope", struct.pack("<Q", 2) + b"{}tail"],
    ids=["empty", "one byte", "huge header", "no json", "more bytes than tensors"],
)
def test_broken_headers_are_found(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert manifests.read_tensors(tmp_path, required=True)[1]


def test_weights_must_be_there_unless_the_profile_has_none(tmp_path: Path) -> None:
    folder = course_model.make(profile("qwen3-8b-shape"), tmp_path / "shape")
    assert not manifests.check(folder, listing(folder))
    assert manifests.check(folder, listing(folder), weights=False)
