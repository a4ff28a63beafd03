"""The loopback hub: what it answers, its faults, and that it leaves nothing behind."""

import contextlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.common.errors import DownloadError, SettingError
from labkit.hub import listings, loopback
from labkit.hub.loopback import LoopbackHub

NAME = "labkit/plain"
WEIGHTS = bytes(range(256)) * 400


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LoopbackHub]:
    folder = tmp_path / "served"
    (folder / "nested").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "nested" / "notes.txt").write_text("deep")
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "labkit.manifest.json").write_text("not served")
    with LoopbackHub({NAME: folder}) as opened:
        yield opened


def get(address: str, **headers: str) -> tuple[int, bytes]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(address, headers=headers), timeout=10) as answer:
        return answer.status, answer.read()


def weights(hub: LoopbackHub) -> str:
    return f"{hub.huggingface}/{NAME}/resolve/main/model.safetensors"


@pytest.mark.parametrize("ask", [listings.modelscope, listings.huggingface])
def test_both_lists_name_every_file_with_its_size(hub: LoopbackHub, ask: object) -> None:
    listing = ask(hub.modelscope, NAME, proxy=False)  # type: ignore[operator]
    assert {file.path: file.size for file in listing.files} == {"config.json": 2, "model.safetensors": len(WEIGHTS), "nested/notes.txt": 4}
    assert all(file.digest for file in listing.files)


def test_a_range_gives_just_that_part(hub: LoopbackHub) -> None:
    assert get(weights(hub), Range="bytes=100-199") == (206, WEIGHTS[100:200])
    assert get(weights(hub), Range="bytes=102000-") == (206, WEIGHTS[102000:])


def test_a_range_past_the_end_is_refused(hub: LoopbackHub) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(weights(hub), Range=f"bytes={len(WEIGHTS)}-")
    assert caught.value.code == 416


def test_a_dropped_connection_ends_early_and_only_as_often_as_told(hub: LoopbackHub) -> None:
    hub.fault("drop", "*.safetensors", after=1000, times=1)
    with pytest.raises(Exception, match="IncompleteRead"):
        get(weights(hub))
    assert get(weights(hub)) == (200, WEIGHTS)


def test_a_truncated_file_is_short_only_as_often_as_told(hub: LoopbackHub) -> None:
    hub.fault("truncate", "*.safetensors", after=1000, times=1)
    assert get(weights(hub)) == (200, WEIGHTS[:1000])
    assert get(weights(hub)) == (200, WEIGHTS)


def test_a_corrupt_byte_differs_in_one_place_until_healed(hub: LoopbackHub) -> None:
    hub.fault("corrupt", "*.safetensors", after=70_000)
    _, body = get(weights(hub))
    assert [place for place, (a, b) in enumerate(zip(body, WEIGHTS, strict=True)) if a != b] == [70_000]
    hub.heal()
    assert get(weights(hub))[1] == WEIGHTS


def test_a_missing_file_stays_listed_and_an_unlisted_one_does_not(hub: LoopbackHub) -> None:
    hub.fault("missing", "config.json")
    hub.fault("unlisted", "nested/*")
    assert [file.path for file in listings.modelscope(hub.modelscope, NAME).files] == ["config.json", "model.safetensors"]
    with pytest.raises(urllib.error.HTTPError):
        get(f"{hub.huggingface}/{NAME}/resolve/main/config.json")


def test_an_unknown_model_is_a_clear_error(hub: LoopbackHub) -> None:
    with pytest.raises(DownloadError, match="has no model labkit/other"):
        listings.huggingface(hub.huggingface, "labkit/other", proxy=False)


def test_it_counts_what_it_sent(hub: LoopbackHub) -> None:
    get(weights(hub))
    deadline = time.monotonic() + 10
    while hub.bytes_sent < len(WEIGHTS) and time.monotonic() < deadline:
        time.sleep(0.01)  # the server counts after it has written: the reader may be ahead
    assert hub.bytes_sent == len(WEIGHTS)
    assert hub.requests == [f"GET /{NAME}/resolve/main/model.safetensors"]


def test_after_close_nobody_listens_and_no_file_is_left(hub: LoopbackHub) -> None:
    hub.close()
    with pytest.raises(urllib.error.URLError):
        get(weights(hub))
    assert not hub._git_root.exists()


def test_it_listens_on_loopback_only(hub: LoopbackHub) -> None:
    assert hub._server.server_address[0] == "127.0.0.1"


def test_an_unknown_fault_is_refused(hub: LoopbackHub) -> None:
    with pytest.raises(SettingError, match="flood"):
        hub.fault("flood")


def test_a_real_profile_gets_the_real_hubs_and_their_mirrors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hf-mirror.com/")
    monkeypatch.delenv("MODELSCOPE_ENDPOINT", raising=False)
    monkeypatch.delenv("MODELSCOPE_DOMAIN", raising=False)
    with loopback.open_hub("r1-qwen3-8b") as hub:
        assert (hub.huggingface, hub.modelscope, hub.local) == ("https://hf-mirror.com", "https://www.modelscope.cn", False)
        with pytest.raises(SettingError):
            hub.fault("drop")


@pytest.mark.parametrize("name", ["tiny", "qwen3-8b-shape"])
def test_a_made_profile_is_served_from_the_caches(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    with loopback.open_hub(name) as hub, contextlib.closing(hub):
        assert hub.local
        status, body = get(f"{hub.huggingface}/api/models/labkit/{name}")
        assert status == 200 and json.loads(body)["sha"]
        assert (tmp_path / "caches" / "hub" / name / "config.json").exists()
