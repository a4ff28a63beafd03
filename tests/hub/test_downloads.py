"""Downloads with the real clients against the loopback hub: three ways, each with faults. Nothing whole is ever lost."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from real_clients import BOTH, HAS_GIT_LFS, NO_GIT_LFS, all_ways, by_turns

from labkit.common.errors import DownloadError, LabError, NoSpace, SettingError, VerificationError
from labkit.hub import downloads, process, sources
from labkit.hub.downloads import download
from labkit.hub.endpoints import Hub
from labkit.hub.loopback import LoopbackHub
from labkit.models import course_model, manifests
from labkit.models.profiles import profile

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
ORDINARY = 0.2
"""Share of the bytes that may be fetched twice when a download goes on: blocks that a client had not written yet."""


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return course_model.make(profile("tiny"), tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HOME", "HF_HUB_CACHE", "MODELSCOPE_CACHE", "LABKIT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def hub(served: Path) -> Iterator[LoopbackHub]:
    with LoopbackHub({"labkit/tiny": served}) as opened:
        yield opened


def same(folder: Path, served: Path) -> bool:
    return all((folder / path.name).read_bytes() == path.read_bytes() for path in served.iterdir())


@pytest.mark.parametrize("way", all_ways())
def test_it_arrives_whole_and_the_second_call_fetches_nothing(way: str, hub: LoopbackHub, served: Path) -> None:
    first = download("tiny", way, hub=hub)
    assert same(first.folder, served) and first.folder == profile("tiny").folder()
    assert (first.already, first.fetched, first.files) == (0, first.bytes, len(list(served.iterdir())))
    assert manifests.verify("tiny")
    asked = len(hub.requests)
    second = download("tiny", way, hub=hub)
    assert (second.fetched, second.folder, len(hub.requests)) == (0, first.folder, asked)


@by_turns(first=1)
def test_a_dropped_connection_is_taken_up_again(way: str, hub: LoopbackHub, served: Path) -> None:
    hub.fault("drop", FIRST, after=500_000, times=1)
    got = download("tiny", way, hub=hub)
    assert same(got.folder, served)
    assert hub.bytes_sent < (1 + ORDINARY) * got.bytes


@by_turns(first=2)
def test_killed_in_the_middle_it_goes_on_from_there(way: str, hub: LoopbackHub, served: Path) -> None:
    hub.fault("slow", SECOND, after=500_000)
    with pytest.raises(DownloadError, match="Stopped at"):
        download("tiny", way, hub=hub, stop_at=0.4)
    folder = profile("tiny").folder()
    assert manifests.read(folder) is None
    hub.heal()
    got = download("tiny", way, hub=hub)
    assert same(got.folder, served) and got.already > 0.3 * got.bytes
    assert hub.bytes_sent < (1 + ORDINARY) * got.bytes
    assert not [path for path in downloads_left(folder) if path.suffix in (".incomplete", ".part")]


@pytest.fixture
def large_file(tmp_path: Path) -> Iterator[LoopbackHub]:
    """A model of one 30 MB file: huggingface_hub writes blocks of 10 MB."""
    folder, size = tmp_path / "large", 30_000_000
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    header = json.dumps({"weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + os.urandom(size))
    with LoopbackHub({"labkit/tiny": folder}) as opened:
        yield opened


@pytest.mark.parametrize(
    ("way", "by"),
    [
        ("modelscope", "path"),
        ("huggingface", "id"),
        pytest.param("git-lfs", "path", marks=pytest.mark.skipif(not HAS_GIT_LFS, reason=NO_GIT_LFS)),
        pytest.param("modelscope", "id", marks=pytest.mark.faults),
        pytest.param("huggingface", "path", marks=pytest.mark.faults),
    ],
)
def test_a_file_half_done_is_not_begun_anew(way: str, by: str, large_file: LoopbackHub, tmp_path: Path) -> None:
    large_file.fault("slow", "*.safetensors", after=20_000_000)
    with pytest.raises(DownloadError, match="Stopped at"):
        download("tiny", way, hub=large_file, by=by, stop_at=0.3)
    large_file.heal()
    sent = large_file.bytes_sent
    got = download("tiny", way, hub=large_file, by=by)
    assert same(got.folder, tmp_path / "large") and got.already > 0.3 * got.bytes
    assert large_file.bytes_sent - sent < got.fetched + 3_000_000, "less the blocks on their way when it was killed"


@by_turns(first=0)
def test_one_corrupt_delivery_is_fetched_again(way: str, hub: LoopbackHub, served: Path) -> None:
    hub.fault("corrupt", FIRST, after=400_000, times=1)
    assert same(download("tiny", way, hub=hub).folder, served)


@by_turns(
    "kind, after, error, says",
    [
        ("corrupt", 400_000, VerificationError, "wrong bytes|other bytes"),
        ("truncate", 400_000, VerificationError, "other bytes|Consistency"),
        ("missing", 0, DownloadError, "404"),
    ],
    first=1,
)
def test_what_the_hub_cannot_deliver_is_a_clear_error(
    way: str, kind: str, after: int, error: type[DownloadError], says: str, hub: LoopbackHub, served: Path
) -> None:
    hub.fault(kind, SECOND, after=after)
    with pytest.raises(error, match=says) as caught:
        download("tiny", way, hub=hub)
    assert caught.value.fix
    assert SECOND in str(caught.value) or way == "git-lfs", "git-lfs names objects by their hash"
    folder = profile("tiny").folder()
    assert manifests.read(folder) is None and not (folder / SECOND).exists()
    sent = hub.bytes_sent
    hub.heal()
    assert same(download("tiny", way, hub=hub).folder, served)
    assert hub.bytes_sent - sent <= (served / SECOND).stat().st_size * (1 + ORDINARY), "what was whole was fetched again"


@by_turns(ways=BOTH, first=1)
def test_a_list_cut_short_is_found_out_by_the_index(way: str, hub: LoopbackHub) -> None:
    hub.fault("unlisted", SECOND)
    with pytest.raises(VerificationError, match=f"{SECOND} is named by"):
        download("tiny", way, hub=hub)
    assert manifests.read(profile("tiny").folder()) is None


@by_turns(first=2)
def test_what_was_damaged_later_is_fetched_alone(way: str, hub: LoopbackHub, served: Path) -> None:
    folder = download("tiny", way, hub=hub).folder
    damaged = (folder / FIRST).read_bytes()[:-1] + b"?"
    (folder / FIRST).unlink()
    (folder / FIRST).write_bytes(damaged)
    (folder / "config.json").write_text('{"mine": true}')
    sent = hub.bytes_sent
    download("tiny", way, hub=hub)
    assert same(folder, served)
    assert hub.bytes_sent - sent < 1.1 * (served / FIRST).stat().st_size
    assert (folder / "config.json.wrong").read_text() == '{"mine": true}', "an edit of the student's is kept aside"


@by_turns(first=0)
def test_a_folder_that_another_way_filled_costs_no_weights(way: str, hub: LoopbackHub, served: Path) -> None:
    folder = profile("tiny").folder()
    shutil.copytree(served, folder)
    (folder / "config.json").unlink()
    got = download("tiny", way, hub=hub)
    assert same(folder, served) and hub.bytes_sent < 10_000 and got.fetched < 10_000


@by_turns(ways=BOTH, first=1)
def test_by_id_it_lands_in_the_clients_cache(way: str, hub: LoopbackHub, served: Path) -> None:
    hub.fault("slow", SECOND, after=500_000)
    with pytest.raises(DownloadError):
        download("tiny", way, hub=hub, by="id", stop_at=0.4)
    hub.heal()
    got = download("tiny", way, hub=hub, by="id")
    assert downloads.where("tiny")[f"{way}, by id"] in got.folder.parents
    assert same(got.folder, served) and got.already > 0
    assert hub.bytes_sent < (1 + ORDINARY) * got.bytes
    assert download("tiny", way, hub=hub, by="id").fetched == 0


def test_by_id_a_damaged_blob_is_replaced(hub: LoopbackHub, served: Path) -> None:
    folder = download("tiny", "huggingface", hub=hub, by="id").folder
    (folder / FIRST).resolve().write_bytes(b"?" * (served / FIRST).stat().st_size)
    assert same(download("tiny", "huggingface", hub=hub, by="id").folder, served)


def test_a_profile_without_weights_passes(tmp_path: Path) -> None:
    got = download("qwen3-8b-shape")
    assert manifests.verify(got.folder).lines()[-1] == "safetensors: readable"


def test_kill_9_of_the_caller_ends_the_client(hub: LoopbackHub, home: Path) -> None:
    hub.fault("slow", "*.safetensors", after=200_000)
    code = (
        "from labkit.hub.downloads import download; from labkit.hub.endpoints import Hub; import sys;"
        "download('tiny', 'modelscope', hub=Hub(*[sys.argv[1]] * 3, local=True))"
    )
    caller = subprocess.Popen([sys.executable, "-c", code, hub.modelscope], stderr=subprocess.DEVNULL)
    wait_for(lambda: bool(downloads_left(profile("tiny").folder(), ".incomplete")))
    (client,) = psutil.Process(caller.pid).children()
    with pytest.raises(DownloadError, match=f"process {caller.pid}"):
        download("tiny", "modelscope", hub=hub)
    os.kill(caller.pid, signal.SIGKILL)
    caller.wait()
    psutil.wait_procs([client], timeout=10)
    assert not client.is_running()
    hub.heal()
    assert download("tiny", "modelscope", hub=hub).already > 0


def test_kill_9_of_the_client_is_made_good(hub: LoopbackHub, served: Path) -> None:
    hub.fault("slow", "*.safetensors", after=500_000)

    def kill() -> None:
        wait_for(lambda: bool(downloads_left(profile("tiny").folder(), ".incomplete")))
        hub.heal()
        psutil.Process().children()[0].kill()

    threading.Thread(target=kill).start()
    assert same(download("tiny", "modelscope", hub=hub).folder, served)


def test_a_hub_that_falls_silent_is_given_up_and_the_next_call_goes_on(
    hub: LoopbackHub, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fault("slow", SECOND, after=1)
    monkeypatch.setattr(process, "STALLED_SECONDS", 60.0)

    def lose_patience() -> None:
        wait_for(lambda: (profile("tiny").folder() / FIRST).exists())
        monkeypatch.setattr(process, "STALLED_SECONDS", 0.5)

    threading.Thread(target=lose_patience).start()
    with pytest.raises(DownloadError, match=r"(no new byte for|\d+ bytes in) .* of 7\.8 MB had come"):
        download("tiny", "modelscope", hub=hub)
    assert not psutil.Process().children() and manifests.read(profile("tiny").folder()) is None
    monkeypatch.setattr(process, "STALLED_SECONDS", 60.0)
    hub.heal()
    got = download("tiny", "modelscope", hub=hub)
    assert same(got.folder, served) and got.already > 0


def test_an_interrupt_ends_the_client_and_keeps_what_came(hub: LoopbackHub) -> None:
    hub.fault("slow", "*.safetensors", after=200_000)
    folder = profile("tiny").folder()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs tests in the background ignores it

    def press_stop() -> None:
        wait_for(lambda: bool(downloads_left(folder, ".incomplete")))
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press_stop).start()
    with pytest.raises(KeyboardInterrupt):
        download("tiny", "modelscope", hub=hub)
    signal.signal(signal.SIGINT, before)
    assert not psutil.Process().children() and downloads_left(folder, ".incomplete")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@by_turns(first=2)
def test_a_disk_too_small_is_refused_before_the_first_byte(way: str, hub: LoopbackHub, small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(20 * 2**20))
    with pytest.raises(NoSpace, match=str(small_disk)):
        download("tiny", way, small_disk / "models" / "tiny", hub)
    assert os.listdir(small_disk) == ["filler"] and hub.bytes_sent == 0


@by_turns(ways=BOTH, first=0)
def test_a_small_disk_for_the_cache_is_refused_too(way: str, hub: LoopbackHub, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (small_disk / "filler").write_bytes(bytes(20 * 2**20))
    monkeypatch.setenv("HF_HOME" if way == "huggingface" else "MODELSCOPE_CACHE", str(small_disk))
    with pytest.raises(NoSpace, match=str(small_disk)):
        download("tiny", way, hub=hub)
    assert hub.bytes_sent == 0


@by_turns(first=1)
def test_a_disk_that_fills_up_on_the_way_keeps_what_came(way: str, hub: LoopbackHub, served: Path, small_disk: Path) -> None:
    hub.fault("slow", SECOND, after=500_000)
    folder = small_disk / "tiny"

    def fill() -> None:
        wait_for(lambda: sum(path.stat().st_size for path in downloads_left(folder)) > 1_000_000)
        with (small_disk / "filler").open("wb", buffering=0) as stream:
            while True:
                stream.write(bytes(65536))

    threading.Thread(target=lambda: pytest.raises(OSError, fill)).start()
    with pytest.raises(NoSpace, match="ran full"):
        download("tiny", way, folder, hub)
    assert manifests.read(folder) is None
    (small_disk / "filler").unlink()
    hub.heal()
    got = download("tiny", way, folder, hub)
    assert same(folder, served) and got.already > 0


def test_bad_input_is_refused_before_anything_is_asked(hub: LoopbackHub, tmp_path: Path, served: Path) -> None:
    (tmp_path / "file").write_text("")
    for arguments in (
        {"source": "ftp"},
        {"by": "magic"},
        {"by": "id", "source": "git-lfs"},
        {"by": "id", "folder": tmp_path / "x"},
        {"folder": tmp_path / "file"},
    ):
        with pytest.raises(SettingError):
            download("tiny", hub=hub, **arguments)
    folder = download("tiny", hub=hub).folder
    asked = len(hub.requests)
    with pytest.raises(SettingError, match="another model"):
        download("qwen3-8b-shape", folder=folder, hub=hub)
    assert len(hub.requests) == asked


def test_a_clock_that_reads_404_is_no_answer_of_the_hub() -> None:
    log = (
        "2026-01-01 09:09:15,404 | INFO    | download | Downloading 8 files\n"
        "2026-01-01 09:09:16,403 | ERROR   | download | Failed to download a.bin: Connection aborted\n"
    )
    error, again = sources.explain(sources.find("modelscope"), log, 1, Path("client.log"))
    assert "connection to the hub broke" in error.cause and "a.bin" in error.cause and again


def test_an_unreachable_hub_is_a_clear_error(hub: LoopbackHub) -> None:
    hub.close()
    with pytest.raises(DownloadError, match="cannot be reached: nobody listens there") as caught:
        download("tiny", hub=hub)
    assert 'source="huggingface"' in caught.value.fix
    assert not profile("tiny").folder().exists()


def test_without_git_lfs_the_apt_line_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match="apt-get install -y git"):
        download("tiny", "git-lfs")


def test_the_proxy_is_for_hugging_face_only_and_never_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:1")
    hub = Hub()
    assert "https_proxy" not in sources.find("modelscope").environment(hub, proxy=False)
    through = sources.find("huggingface").environment(hub, proxy=True)
    assert through["https_proxy"] == "http://proxy:1" and "127.0.0.1" in through["NO_PROXY"] and through["HF_HUB_DISABLE_XET"] == "1"


def test_shell_lines_of_a_made_model_need_its_hub() -> None:
    with pytest.raises(SettingError, match="no public hub"):
        downloads.download_lines("tiny")
    assert "modelscope download --model deepseek-ai/DeepSeek-R1-0528-Qwen3-8B" in downloads.download_lines("r1-qwen3-8b")


@by_turns(first=2)
def test_the_shell_lines_work_when_pasted(way: str, hub: LoopbackHub, served: Path) -> None:
    lines = downloads.download_lines("tiny", way, hub)
    bin_folder = str(Path(sys.executable).parent)
    env = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    done = subprocess.run(["bash", "-ec", lines], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert same(profile("tiny").folder(), served)


def downloads_left(folder: Path, suffix: str = "") -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name.endswith(suffix)]


def wait_for(condition: object, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        if time.monotonic() > end:
            raise AssertionError("waited in vain")
        time.sleep(0.05)
