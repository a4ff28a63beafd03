"""What hubs, mirrors and networks do wrong, with the real clients: each is waited for, made good, or named with what to do."""

import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_clients import BOTH, HAS_GIT_LFS, by_turns

from labkit.common.errors import DownloadError, LabError, NoSpace, VerificationError
from labkit.hub import patience
from labkit.hub.downloads import download, preview
from labkit.hub.endpoints import Hub
from labkit.hub.loopback import LoopbackHub
from labkit.models import course_model, manifests
from labkit.models.profiles import profile

GIT_SETTINGS = ("autocrlf = input", "eol = crlf", "hooksPath = /nowhere", "safecrlf = true")
SHARD, SMALL = "model-00002-of-00002.safetensors", "config.json"


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return course_model.make(profile("tiny"), tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HOME", "HF_HUB_CACHE", "MODELSCOPE_CACHE", "LABKIT_PROFILE", "HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(patience, "WAIT_SECONDS", 2.5)
    return tmp_path / "home"


@pytest.fixture
def hub(served: Path) -> Iterator[LoopbackHub]:
    with LoopbackHub({"labkit/tiny": served, "labkit/renamed": served}) as opened:
        yield opened


def whole(folder: Path, served: Path) -> bool:
    return all((folder / path.name).read_bytes() == path.read_bytes() for path in served.iterdir())


@by_turns("kind, pattern", [("busy", "*"), ("busy", SHARD), ("busy until", SHARD), ("down", SHARD), ("broken", ":*")], first=1)
def test_a_busy_hub_is_waited_for_and_that_is_said(
    way: str, kind: str, pattern: str, hub: LoopbackHub, served: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.fault(kind, pattern, after=1, times=1)
    assert whole(download("tiny", way, hub=hub).folder, served)
    assert " (HTTP " in (said := capsys.readouterr().out) and "then asking again" in said


@by_turns("pattern", ["*", SHARD], first=2)
def test_one_that_asks_for_hours_is_not_waited_for(way: str, pattern: str, hub: LoopbackHub) -> None:
    hub.fault("busy", pattern, after=7200)
    with pytest.raises(DownloadError, match=r"HTTP 429\); it asks to be left alone for 2 h") as caught:
        download("tiny", way, hub=hub)
    assert "after 2 h" in caught.value.fix and len(hub.requests) < 60


@by_turns(first=2)
def test_one_that_stays_down_is_given_up(way: str, hub: LoopbackHub) -> None:
    hub.fault("bad gateway", SHARD)
    with pytest.raises(DownloadError, match=r"in trouble \(HTTP 502.*waited for and asked again"):
        download("tiny", way, hub=hub)


@by_turns(
    "kind, says",
    [
        ("page", r'is a web page \("Welcome to the mirror"\)'),
        ("login page", r'is a web page \("Campus network login"\)'),
        ("pointer", "is a Git-LFS pointer"),
        ("message", r'is an error message as JSON \("Please log in first"\)'),
    ],
    first=0,
)
def test_what_comes_in_a_files_place_is_named(way: str, kind: str, says: str, hub: LoopbackHub) -> None:
    hub.fault(kind, SHARD)
    with pytest.raises(VerificationError, match=says) as caught:
        download("tiny", way, hub=hub)
    assert SHARD in caught.value.cause and caught.value.fix
    assert not (profile("tiny").folder() / SHARD).exists()


@by_turns(
    "kind, says, fix",
    [
        ("page", "not answer with a list of files.*web page", "proxy"),
        ("login page", "Campus network login", "log in"),
        ("message", "Please log in first", ""),
        ("gated", r"accept the terms of labkit/tiny first \(gated, HTTP 403\)", "accept the terms"),
        ("login", "wants you to log in.*HTTP 401", "token"),
        ("forbidden", "keeps this machine out.*Cloudflare", ""),
        ("no revision", "not the revision that was asked for", "branch"),
        ("no model", "has no model labkit/tiny", "typing error"),
        ("legal", "HTTP 451", "another source"),
        ("circle", "circle of redirects", "HF_ENDPOINT"),
        ("empty", "lists no files", "again"),
        ("sent on", "cannot be reached", ""),
    ],
    BOTH,
    first=1,
)
def test_what_comes_in_a_lists_place_is_named(way: str, kind: str, says: str, fix: str, hub: LoopbackHub) -> None:
    hub.fault(kind, ":*")
    with pytest.raises(DownloadError, match=f"(?s){says}") as caught:
        download("tiny", way, hub=hub)
    assert fix in caught.value.fix and not profile("tiny").folder().exists()


@by_turns(
    "kind, says",
    [
        ("gated", "accept the terms"),
        ("reset", "connection to the hub broke"),
        ("legal", "HTTP 451"),
        ("circle", "circle of redirects"),
        ("corrupt", "other bytes than it lists"),
        ("missing", r"does not have what it lists \(404\)"),
        ("sent on", "127.0.0.1:9 cannot be reached"),
        ("truncate", "other bytes than it lists"),
        ("login", "wants you to log in"),
    ],
    first=1,
)
def test_a_file_that_is_not_given_says_why(way: str, kind: str, says: str, hub: LoopbackHub) -> None:
    hub.fault(kind, SHARD, after=1000)
    with pytest.raises(DownloadError, match=says) as caught:
        download("tiny", way, hub=hub)
    assert caught.value.fix


@pytest.mark.skipif(not HAS_GIT_LFS, reason="git-lfs is not installed")
def test_git_waits_as_long_as_its_own_answer_asked(hub: LoopbackHub, served: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.fault("down", ":git", after=1, times=1)
    assert whole(download("tiny", "git-lfs", hub=hub).folder, served)
    assert "waiting 1 s, as it asks" in capsys.readouterr().out


def test_a_page_where_hugging_face_says_what_the_model_is(hub: LoopbackHub) -> None:
    hub.fault("page", ":info")
    with pytest.raises(DownloadError, match="no JSON where a hub answers JSON"):
        download("tiny", "huggingface", hub=hub)


@pytest.mark.skipif(not HAS_GIT_LFS, reason="git-lfs is not installed")
@pytest.mark.parametrize(
    ("kind", "pattern", "says"),
    [
        ("page", ":git", "answers git with something else"),
        ("login", ":git", "log in"),
        ("circle", ":git", "circle of redirects"),
        ("page", ":batch", "answers git with something else"),
        ("forbidden", ":batch", "403"),
        ("busy", ":batch", "left alone for 2 h"),
    ],
)
def test_gits_own_questions_fail_with_words(kind: str, pattern: str, says: str, hub: LoopbackHub) -> None:
    hub.fault(kind, pattern, after=7200)
    with pytest.raises(DownloadError, match=says):
        download("tiny", "git-lfs", hub=hub)


@by_turns("kind, pattern", [("gzip", SMALL), ("gzip", SHARD), ("half", ":list"), ("away", ":list")], first=0)
def test_what_is_odd_but_right_is_taken(way: str, kind: str, pattern: str, hub: LoopbackHub, served: Path) -> None:
    hub.fault(kind, pattern)
    assert whole(download("tiny", way, hub=hub).folder, served)


@by_turns(ways=BOTH, first=0)
def test_a_renamed_model_is_followed(way: str, hub: LoopbackHub, served: Path) -> None:
    with LoopbackHub({"labkit/tiny": served, "labkit/renamed": served}) as moved:
        moved.fault("moved", to="labkit/renamed", times=1)
        assert whole(download("tiny", way, hub=moved).folder, served)


@by_turns(first=1)
def test_a_list_that_was_cut_short_once_heals(way: str, hub: LoopbackHub, served: Path) -> None:
    hub.fault("unlisted", SHARD)
    with pytest.raises(DownloadError) if way != "git-lfs" else pytest.raises(AssertionError):
        download("tiny", way, hub=hub)
        raise AssertionError("git lists by itself")
    hub.heal()
    got = download("tiny", way, hub=hub)
    assert whole(got.folder, served) and (way == "git-lfs" or got.files == len(list(served.iterdir())))


@by_turns("name", [SHARD, "tokenizer.json", SMALL, "model.safetensors.index.json"], ways=BOTH)
def test_a_list_that_stays_cut_short_is_never_taken_for_whole(way: str, name: str, hub: LoopbackHub) -> None:
    hub.fault("unlisted", name)
    with pytest.raises(VerificationError, match=name):
        download("tiny", way, hub=hub)
    assert manifests.read(profile("tiny").folder()) is None


@pytest.mark.skipif(not HAS_GIT_LFS, reason="git-lfs is not installed")
def test_what_git_brings_beyond_the_list_is_in_the_manifest(hub: LoopbackHub, served: Path) -> None:
    cut = {SHARD, "tokenizer.json", SMALL, "model.safetensors.index.json"}
    for name in cut:
        hub.fault("unlisted", name)
    folder = download("tiny", "git-lfs", hub=hub).folder
    rows = {row["path"]: row for row in (manifests.read(folder) or {})["files"]}
    assert whole(folder, served) and cut <= rows.keys() and all(rows[name]["digest"].startswith("sha256:") for name in cut)
    (folder / SHARD).write_bytes(b"?" * (served / SHARD).stat().st_size)
    assert manifests.verify(folder).wrong_hash == [SHARD]


@by_turns(first=2)
def test_a_list_that_changes_between_two_calls_is_asked_for_anew(way: str, hub: LoopbackHub, served: Path) -> None:
    hub.fault("unlisted", SHARD, times=1)
    got = download("tiny", way, hub=hub)
    assert got.files == len(list(served.iterdir())) and manifests.verify(got.folder)
    listed = manifests.read(got.folder)
    assert listed and SHARD in {row["path"] for row in listed["files"]}


@by_turns("kind, found", [("wrong size", "expected 77 bytes, found"), ("wrong hash", "expected sha256:")], first=1)
def test_a_list_that_is_wrong_shows_what_it_says_and_what_came(way: str, kind: str, found: str, hub: LoopbackHub) -> None:
    hub.fault(kind, SHARD, after=77)
    with pytest.raises(VerificationError, match="delivered other bytes than it lists") as caught:
        download("tiny", way, hub=hub)
    assert found in caught.value.cause or way == "modelscope", "its client finds out, and keeps the rest to itself"
    assert "again: it fetches only" not in caught.value.fix


@by_turns("path", ["..\\x.txt", "C:x.txt", "c:\\x", "/etc/x", "../x", "a/../../x", "aux.json", "sub/NUL", "a//b", ".git/hooks/post-checkout",
             "\\\\server\\share", "~/x", "x. ", "x" * 250, "a\nb", "safe\u202egnp.exe"], first=2)  # fmt: skip
def test_a_path_that_must_not_be_written_is_refused_by_name(way: str, path: str, hub: LoopbackHub) -> None:
    hub.fault("listed", path)
    with pytest.raises(DownloadError, match="must not be written") as caught:
        download("tiny", way, hub=hub)
    assert repr(path)[:200] in caught.value.cause and not profile("tiny").folder().exists()


@pytest.fixture
def short_files() -> Iterator[None]:
    """No file of this process and its children may be longer than a megabyte."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@by_turns(first=0)
def test_a_file_too_large_for_the_file_system_is_told_at_once(way: str, hub: LoopbackHub, short_files: None) -> None:
    with pytest.raises(DownloadError, match="takes no file of this size") as caught:
        download("tiny", way, hub=hub)
    assert "ulimit -f" in caught.value.fix and sum(SHARD in asked for asked in hub.requests) <= 2


QUOTA = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
ssize_t write(int fd, const void *bytes, size_t length) {
  static ssize_t (*real)(int, const void *, size_t);
  static long written;
  char link[64], path[4096];
  if (!real) real = dlsym(RTLD_NEXT, "write");
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t end = readlink(link, path, sizeof path - 1);
  if (end > 0) {
    path[end] = 0;
    if (strstr(path, "/models/") && (written += length) > 1000000) { errno = EDQUOT; return -1; }
  }
  return real(fd, bytes, length);
}
"""


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
@by_turns(ways=BOTH, first=1)
def test_a_quota_that_is_used_up_is_told_at_once(way: str, hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "quota.c").write_text(QUOTA)
    library = tmp_path / "quota.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "quota.c", "-ldl"], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    with pytest.raises(NoSpace, match="quota exceeded at .*models") as caught:
        download("tiny", way, hub=hub)
    assert "Make room" in caught.value.fix and len(hub.requests) < 40


def test_a_folder_that_cannot_be_made_is_named(hub: LoopbackHub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match=str(tmp_path / "file")):
        download("tiny", "modelscope", tmp_path / "file" / "below", hub)
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(LabError, match="link is a link to .*gone, which is not there"):
        download("tiny", "modelscope", tmp_path / "link" / "tiny", hub)


@by_turns(ways=BOTH, first=2)
def test_a_folder_in_the_way_of_a_file_is_named(way: str, hub: LoopbackHub) -> None:
    (profile("tiny").folder() / "tokenizer.json" / "old").mkdir(parents=True)
    with pytest.raises(DownloadError, match="tokenizer.json"):
        download("tiny", way, hub=hub)


@by_turns(first=0)
def test_an_edit_is_kept_however_the_folder_is_reached(way: str, hub: LoopbackHub, served: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "home-of-models").symlink_to(tmp_path / "disk")
    folder = download("tiny", way, tmp_path / "home-of-models" / "tiny", hub).folder
    for edit in ("first", "second"):
        (folder / SMALL).unlink()
        (folder / SMALL).write_text(edit)
        download("tiny", way, folder, hub)
    assert whole(folder, served)
    assert [(folder / f"{SMALL}.wrong{number}").read_text() for number in ("", ".2")] == ["first", "second"]


@pytest.mark.skipif(not HAS_GIT_LFS, reason="git-lfs is not installed")
def test_a_large_file_that_was_written_into_is_fetched_again(hub: LoopbackHub, served: Path) -> None:
    folder = download("tiny", "git-lfs", hub=hub).folder
    with (folder / SHARD).open("r+b") as stream:
        stream.write(b"?")
    assert whole(download("tiny", "git-lfs", hub=hub).folder, served)


@pytest.mark.skipif(not HAS_GIT_LFS, reason="git-lfs is not installed")
@pytest.mark.parametrize(
    "setting",
    ["autocrlf = true", *(pytest.param(setting, marks=pytest.mark.faults) for setting in GIT_SETTINGS)],
)
def test_the_readers_git_settings_change_no_byte(
    setting: str, hub: LoopbackHub, served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gitconfig").write_text(f"[core]\n\t{setting}\n\tattributesFile = {tmp_path}/attributes\n")
    (tmp_path / "attributes").write_text("* text=auto eol=crlf\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert whole(download("tiny", "git-lfs", hub=hub).folder, served)


def sparse(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.truncate(size)


@by_turns("name", ["._____temp/model.safetensors", "notes/data.bin", "model-q4.gguf", ".cache/other/x.incomplete", "x.part"], first=0)
def test_only_files_of_the_model_count_as_there(way: str, name: str, hub: LoopbackHub) -> None:
    sparse(profile("tiny").folder() / name, 50_000_000)
    plan = preview("tiny", way, hub=hub)
    assert plan.to_come == plan.listing.bytes


def test_of_several_partial_files_of_one_only_the_longest_counts(hub: LoopbackHub) -> None:
    large = max(preview("tiny", "huggingface", hub=hub).listing.files, key=lambda file: file.size)
    for number in range(3):
        sparse(profile("tiny").folder() / f".cache/huggingface/download/x.{large.hash}.{number}abc.incomplete", large.size - 1000 - number)
    plan = preview("tiny", "huggingface", hub=hub)
    assert plan.to_come == plan.listing.bytes - (large.size - 1000)


@by_turns(
    "variables",
    [
        {"ALL_PROXY": "socks5://127.0.0.1:9", "all_proxy": "socks5://127.0.0.1:9"},
        {"http_proxy": "socks5h://127.0.0.1:9", "https_proxy": "socks5h://127.0.0.1:9"},
        {"http_proxy": "http://127.0.0.1:9"},
        {"HF_HUB_ENABLE_HF_TRANSFER": "1"},
        {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
        {"HF_TOKEN": "hf_something\n"},
    ],
)
def test_variables_do_not_keep_a_hub_of_this_machine_away(
    way: str, variables: dict[str, str], hub: LoopbackHub, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert whole(download("tiny", way, hub=hub).folder, served)


@pytest.mark.parametrize(
    ("name", "value", "way"),
    [
        ("ALL_PROXY", "socks5://me:secret@127.0.0.1:9", "huggingface"),
        ("https_proxy", "socks5h://127.0.0.1:9", "huggingface"),
        ("http_proxy", "http:/127.0.0.1:9", "huggingface"),
        ("SSL_CERT_FILE", "/nowhere/ca.pem", "modelscope"),
        ("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem", "huggingface"),
        ("HF_TOKEN", "hf_secret and more", "huggingface"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "long", "huggingface"),
        ("HF_ENDPOINT", "https:// hf-mirror.com", "huggingface"),
    ],
)
def test_a_variable_in_the_way_is_named_before_anything_is_asked(name: str, value: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(LabError, match=name) as caught:
        download("r1-qwen3-8b", way)
    assert "secret" not in str(caught.value) and name in caught.value.fix


@by_turns(ways=BOTH, first=1)
def test_a_name_that_nobody_knows_is_told_as_that(way: str) -> None:
    there = Hub(huggingface="http://no-such-hub.invalid", modelscope="http://no-such-hub.invalid")
    with pytest.raises(DownloadError, match=r"no-such-hub.invalid cannot be reached: its name cannot be looked up") as caught:
        download("tiny", way, hub=there, proxy=False)
    assert "hf-mirror" not in caught.value.fix, "the reader has a mirror already"


@by_turns(ways=BOTH, first=2)
def test_plain_http_where_tls_is_wanted_is_told_as_that(way: str, hub: LoopbackHub) -> None:
    address = hub.modelscope.replace("http:", "https:")
    with pytest.raises(DownloadError, match="encrypted connection to the hub failed"):
        download("tiny", way, hub=Hub(huggingface=address, modelscope=address), proxy=False)


def test_a_disk_that_is_read_only_is_told_as_that(hub: LoopbackHub, tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(place)], capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        with pytest.raises(DownloadError, match=f"{place}.*read-only"):
            download("tiny", "modelscope", place / "tiny", hub)
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert errno.EROFS and os.path.isdir(place)
