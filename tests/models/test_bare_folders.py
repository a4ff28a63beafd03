"""A folder that no client of the kit brought: what is wrong is named, and what could not be checked is said."""

import json
import os
from pathlib import Path

import pytest

from labkit.models import course_model, manifests
from labkit.models.headers import INDEX
from labkit.models.profiles import profile

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 4066936\n"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return course_model.make(profile("tiny"), tmp_path / "tiny")


def test_a_whole_one_passes_and_says_what_was_not_checked(tiny: Path) -> None:
    found = manifests.verify(tiny)
    assert found and found.tensors > 0 and "hashes: not compared" in str(found) and "not checked: hashes" in str(found)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (FIRST, POINTER, "Git-LFS pointer"),
        (SECOND, "<!DOCTYPE html><title>Sign in</title>", "web page"),
        ("config.json", '{"error": "Please log in"}', "error message"),
        ("config.json", "{", "no whole JSON"),
        ("tokenizer.json", "", "is empty"),
        ("tokenizer.json", POINTER, "Git-LFS pointer"),
        (INDEX, "[]", INDEX),
        ("model.safetensors.crdownload", "x", "did not finish"),
    ],
)
def test_what_is_wrong_is_named(tiny: Path, name: str, content: str, says: str) -> None:
    (tiny / name).unlink(missing_ok=True)
    (tiny / name).write_text(content)
    found = manifests.verify(tiny)
    assert not found and any(name in sentence and says in sentence for sentence in found.unreadable), str(found)


@pytest.mark.parametrize("name", [FIRST, "config.json", "tokenizer.json", INDEX])
def test_what_is_missing_is_named(tiny: Path, name: str) -> None:
    (tiny / name).unlink()
    found = manifests.verify(tiny)
    assert not found and name.removesuffix(".json") in str(found)


def test_a_shard_that_is_cut_is_named(tiny: Path) -> None:
    os.truncate(tiny / SECOND, 100_000)
    assert any(SECOND in sentence for sentence in manifests.verify(tiny).unreadable)


@pytest.mark.parametrize(
    ("kind", "says"), [("link", "is a link to /nowhere, which is not there"), ("folder", "is a folder"), ("empty", "is empty")]
)
def test_what_lies_in_a_shards_place_is_named_for_what_it_is(tiny: Path, kind: str, says: str) -> None:
    (tiny / SECOND).unlink()
    {"link": lambda: (tiny / SECOND).symlink_to("/nowhere"), "folder": (tiny / SECOND).mkdir, "empty": (tiny / SECOND).touch}[kind]()
    assert f"{SECOND} {says}" in manifests.verify(tiny).unreadable


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a\\b"])
def test_an_index_that_leads_out_of_the_folder_is_named(tiny: Path, name: str) -> None:
    (tiny / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"a": name}}))
    found = manifests.verify(tiny)
    assert not found and any("cannot be a file of a model" in sentence for sentence in found.unreadable) and not found.missing


def test_what_is_no_tensor_is_not_told_as_one(tiny: Path) -> None:
    (tiny / "config.json").write_text("")
    assert "contents: wrong: config.json is empty" in manifests.verify(tiny).lines()
