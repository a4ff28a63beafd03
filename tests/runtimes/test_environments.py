"""Environments made for real with uv, from two tiny wheels in a folder: no network, a second each."""

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from labkit.common.errors import InstallError, NoSpace, SettingError
from labkit.runtimes import environments, pinned
from labkit.runtimes.installer import alone

ENGINES = """
[toy]
title = "Toy"
package = "toy"
module = "toy.cli"
distribution = "toy-engine"
needs = ["torch"]

[[toy.lists]]
list = "toy-cpu"
least_driver = 0
bytes = 1000
measured = true
cuda = ""
extensions = []
libraries = {libraries}
supply = {{ name = "toy-engine", version = "1.0+cpu" }}
why = "it is small"
"""
GOOD_TORCH = "__version__ = '2.0'\nclass version: cuda = None\n"
TITLE = "Making the Toy environment"


def wheel(folder: Path, name: str, files: dict[str, str], version: str = "1.0", scripts: str = "") -> None:
    info = f"{name}-{version}.dist-info"
    texts = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if scripts:
        texts[f"{info}/entry_points.txt"] = f"[console_scripts]\n{scripts}\n"
    digests = {path: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode() for path, text in texts.items()}
    texts[f"{info}/RECORD"] = "".join(f"{path},sha256={digest},\n" for path, digest in digests.items()) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in texts.items():
            archive.writestr(path, text)


class Place:
    """A data home, a folder of wheels and a folder of lists, all of this test's own."""

    def __init__(self, root: Path) -> None:
        self.home, self.wheels, self.lists = root / "home", root / "wheels", root / "lists"
        for folder in (self.wheels, self.lists):
            folder.mkdir()
        wheel(
            self.wheels,
            "toy",
            {"toy/__init__.py": "", "toy/cli.py": "def main():\n    print('toy runs')\nmain()\n"},
            scripts="toy = toy.cli:main",
        )
        self.torch(GOOD_TORCH)
        self.pins("toy==1.0", "torch==2.0")
        self.engines()

    def torch(self, source: str, version: str = "2.0") -> None:
        wheel(self.wheels, "torch", {"torch/__init__.py": source}, version)

    def pins(self, *lines: str) -> None:
        (self.lists / "toy-cpu.txt").write_text("# a comment\n" + "\n".join(lines) + "\n")

    def engines(self, libraries: str = "{}") -> None:
        (self.lists / "engines.toml").write_text(ENGINES.format(libraries=libraries))
        pinned._read.cache_clear()

    @property
    def folder(self) -> Path:
        return self.home / "runtimes" / "toy-cpu"

    def left(self) -> list[str]:
        """What lies in the runtimes folder, less the lock files."""
        return sorted(path.name for path in self.folder.parent.glob("*") if path.suffix != ".lock")

    def install_elsewhere(self) -> "subprocess.Popen[str]":
        """`install("toy")` in another process."""
        code = (
            "from pathlib import Path; from labkit.runtimes import environments, pinned\n"
            f"pinned.LISTS = Path({str(self.lists)!r})\n"
            "environments.install('toy')"
        )
        root = Path(__file__).resolve().parents[2]
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path[1:]])}
        return subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path)
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_", environments.VARIABLE))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LABKIT_HOME", str(made.home))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(made.wheels))
    monkeypatch.setattr(pinned, "LISTS", made.lists)
    monkeypatch.setenv("LABKIT_DEVICE", "cpu")
    pinned._read.cache_clear()
    return made


def output(*command: object) -> str:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout.strip()


def test_made_then_found(place: Place) -> None:
    assert not environments.present("toy")
    made = environments.install("toy")
    assert environments.present("toy") and place.left() == ["toy-cpu"]
    assert made.versions == {"toy-engine": "1.0+cpu", "torch": "2.0"}
    stamp = (place.folder / environments.STAMP).stat().st_mtime_ns
    assert environments.python("toy") == made.python
    assert (place.folder / environments.STAMP).stat().st_mtime_ns == stamp, "the second call made it again"


def test_it_works_where_it_was_renamed_to(place: Place) -> None:
    interpreter = environments.python("toy")
    assert output(interpreter, "-m", "toy.cli") == "toy runs"
    assert output(place.folder / "bin" / "toy").splitlines()[0] == "toy runs"
    assert "partial" not in (place.folder / "bin" / "toy").read_text()


def test_the_name_that_the_wheel_leaves_out(place: Place) -> None:
    code = "import importlib.metadata as m; print(m.version('toy-engine'), m.distribution('toy-engine').read_text('INSTALLER').strip())"
    assert output(environments.python("toy"), "-c", code) == "1.0+cpu labkit"


def test_a_file_of_the_list_takes_the_place_of_the_package_s_and_only_there(place: Place) -> None:
    assert output(environments.python("toy"), "-m", "toy.cli") == "toy runs"
    (place.lists / "extra" / "toy").mkdir(parents=True)
    (place.lists / "extra" / "toy" / "cli.py").write_text("print('our toy')\n")
    with (place.lists / "engines.toml").open("a") as table:
        table.write('overlay = "extra"\n')
    pinned._read.cache_clear()
    assert not environments.present("toy"), "an overlay changes what the environment is"
    assert output(environments.python("toy"), "-m", "toy.cli") == "our toy"
    place.engines()
    assert output(environments.python("toy"), "-m", "toy.cli") == "toy runs", "uv's cache was written into"


def test_killed_install_counts_for_nothing(place: Place) -> None:
    process = place.install_elsewhere()
    while not list(place.folder.parent.glob("toy-cpu.partial-*")) and process.poll() is None:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not environments.present("toy")
    assert environments.install("toy").python.exists()
    assert place.left() == ["toy-cpu"], "the next call clears what the killed one left"


def test_second_install_waits_for_the_first(place: Place) -> None:
    with alone(place.folder):
        process = place.install_elsewhere()
        assert process.stdout is not None
        said = process.stdout.readline()
        assert f"Waiting for process {os.getpid()}" in said
        assert place.left() == []
    assert process.wait() == 0
    assert environments.present("toy")


@pytest.mark.parametrize(
    ("source", "said"),
    [("raise OSError('libgone.so: cannot open')", "libgone.so"), (GOOD_TORCH.replace("None", "'12.8'"), "built for CUDA 12")],
)
def test_broken_one_is_refused_and_the_old_one_stays(place: Place, source: str, said: str) -> None:
    old = environments.install("toy")
    place.torch(source, "2.1")
    place.pins("toy==1.0", "torch==2.1")
    with pytest.raises(InstallError, match=said):
        environments.install("toy")
    assert not environments.present("toy") and place.left() == ["toy-cpu"]
    assert output(old.python, "-c", "import torch; print(torch.__version__)") == "2.0"


def test_missing_package_names_the_places(place: Place) -> None:
    place.pins("toy==1.0", "torch==2.0", "nowhere==3.0")
    with pytest.raises(InstallError, match="nowhere") as caught:
        environments.install("toy")
    assert str(place.wheels) in str(caught.value)
    assert place.left() == []


def test_changed_list_makes_it_again(place: Place) -> None:
    environments.install("toy")
    place.torch(GOOD_TORCH.replace("2.0", "2.1"), "2.1")
    place.pins("toy==1.0", "torch==2.1")
    assert not environments.present("toy")
    assert environments.install("toy").versions["torch"] == "2.1"
    assert place.left() == ["toy-cpu"]


def test_not_replaced_under_a_running_engine(place: Place) -> None:
    running = subprocess.Popen([str(environments.python("toy")), "-c", "input()"], stdin=subprocess.PIPE)
    try:
        place.pins("toy==1.0", "torch==2.0", "# changed", "torch==2.0")
        (place.lists / "toy-cpu.txt").write_text("torch==2.0\n")
        with pytest.raises(InstallError, match=f"process {running.pid}"):
            environments.install("toy")
    finally:
        running.communicate(b"\n")


def test_refused_before_anything_is_written(place: Place) -> None:
    place.engines('{ "libnosuch.so.9" = "libnosuch9" }')
    with pytest.raises(InstallError, match="apt-get install -y libnosuch9"):
        environments.install("toy")
    with pytest.raises(SettingError, match="toy"):
        environments.install("nosuch")
    with pytest.raises(SettingError, match="toy-cpu"):
        environments.install("toy", "toy-cuda")
    assert not place.home.exists()


def test_no_room(place: Place) -> None:
    table = place.lists / "engines.toml"
    table.write_text(table.read_text().replace("bytes = 1000", f"bytes = {2**60}"))
    pinned._read.cache_clear()
    with pytest.raises(NoSpace, match="toy-cpu needs"):
        environments.install("toy")
    assert place.left() == []


def test_own_environment_is_checked_once(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = environments.python("toy")
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "other"))
    monkeypatch.setenv("LABKIT_RUNTIME_TOY", str(own))
    assert environments.present("toy") and environments.install("toy").list == ""
    note = next((tmp_path / "other" / "state" / "runtimes").glob("*.json"))
    note.write_text(json.dumps(json.loads(note.read_text()) | {"versions": {"toy": "from the note"}}))
    assert environments.install("toy").versions == {"toy": "from the note"}
    info = next(own.parent.parent.glob("lib/*/site-packages/torch-2.0.dist-info"))
    info.rename(info.with_name("gone"))
    with pytest.raises(InstallError, match="not installed: torch"):
        environments.install("toy")


def test_own_environment_that_is_none(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_RUNTIME_TOY", "/no/such/python")
    assert not environments.present("toy")
    with pytest.raises(InstallError, match="LABKIT_RUNTIME_TOY names /no/such/python"):
        environments.python("toy")
    monkeypatch.setenv("LABKIT_RUNTIME_TOY", sys.executable)
    with pytest.raises(InstallError, match="not installed: toy-engine"):
        environments.python("toy")


@pytest.mark.parametrize(
    ("driver", "expected"),
    [("", "vllm-cpu"), ("525.60.13", "vllm-cuda12"), ("570.86", "vllm-cuda12"), ("580.159.04", "vllm-cuda13"), ("610.1", "vllm-cuda13")],
)
def test_the_list_follows_the_driver(driver: str, expected: str) -> None:
    assert environments.runtime_list("vllm", driver).list == expected
    assert environments.runtime_list("sglang", driver).list == expected.replace("vllm", "sglang")


@pytest.mark.parametrize(
    ("engine", "capability", "expected"),
    [
        ("vllm", (7, 0), "vllm-cuda12"),
        ("vllm", (7, 2), "vllm-cuda12"),
        ("vllm", (7, 5), "vllm-cuda13"),
        ("vllm", (8, 6), "vllm-cuda13"),
        ("vllm", (8, 7), "vllm-cuda13"),
        ("vllm", (8, 9), "vllm-cuda13"),
        ("vllm", (9, 0), "vllm-cuda13"),
        ("vllm", (10, 3), "vllm-cuda13"),
        ("vllm", (12, 1), "vllm-cuda13"),
        ("vllm", None, "vllm-cuda13"),
        ("vllm", (6, 1), ""),
        ("vllm", (5, 2), ""),
        ("vllm", (13, 0), ""),
        ("sglang", (7, 5), "sglang-cuda13"),
        ("sglang", (7, 0), ""),
        ("llamafactory", (6, 1), "llamafactory-cuda12"),
    ],
)
def test_the_list_follows_the_card_too(engine: str, capability: tuple[int, int] | None, expected: str) -> None:
    if expected:
        row = pinned.choose(pinned.tool(engine), "580.95.05", capability)
        assert row.list == expected
        assert ("compute capability 7." in row.why) == (expected == "vllm-cuda12"), "the driver is not blamed"
        return
    with pytest.raises(InstallError, match=f"compute capability {capability[0]}.{capability[1]}" if capability else "") as failure:
        pinned.choose(pinned.tool(engine), "580.95.05", capability)
    assert "newer card" in failure.value.fix


def test_with_an_older_driver_the_card_is_named_where_it_decides() -> None:
    assert pinned.choose(pinned.tool("vllm"), "535.1", (7, 0)).why == pinned.by_name(pinned.tool("vllm"), "vllm-cuda12").why
    with pytest.raises(InstallError, match="compute capability 3.7"):
        pinned.choose(pinned.tool("vllm"), "535.1", (3, 7))


def test_a_driver_too_old_for_all() -> None:
    with pytest.raises(InstallError, match="470.57.02 is too old"):
        environments.runtime_list("vllm", "470.57.02")
