"""pip's configuration as uv must see it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.machine.pip_settings import pip_configuration, places, uv_arguments, uv_environment


def conf(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_every_place_reaches_uv(tmp_path: Path) -> None:
    file = conf(
        tmp_path,
        "pip.conf",
        "[global]\nindex-url = http://mirror.example/simple\nextra-index-url =\n    https://a.example/simple\n    https://b.example/simple\n"
        "find-links = /wheels ~/more\ntrusted-host = mirror.example other.example\ncert = /ca.pem\ntimeout = 60.0\nproxy = http://p:1\n",
    )
    assert uv_environment({}, [file]) == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_DEFAULT_INDEX": "http://mirror.example/simple",
        "UV_INDEX": "https://a.example/simple https://b.example/simple",
        "UV_FIND_LINKS": f"/wheels,{os.path.expanduser('~/more')}",
        "UV_INSECURE_HOST": "mirror.example other.example",
        "SSL_CERT_FILE": "/ca.pem",
        "UV_HTTP_TIMEOUT": "60",
        "HTTP_PROXY": "http://p:1",
        "HTTPS_PROXY": "http://p:1",
    }


def test_what_the_user_set_for_uv_stays() -> None:
    env = {"PIP_INDEX_URL": "https://pip.example/simple", "UV_DEFAULT_INDEX": "https://uv.example/simple"}
    assert "UV_DEFAULT_INDEX" not in uv_environment(env, [])


def test_precedence_is_pips(tmp_path: Path) -> None:
    machine = conf(
        tmp_path, "machine", "[install]\nfind-links = /from-install\n[global]\nindex-url = https://machine\nproxy = http://machine\n"
    )
    user = conf(tmp_path, "user", "[global]\nindex_url = https://user\nfind-links = /from-global\nproxy = http://user\n")
    found = pip_configuration({"PIP_PROXY": "http://variable"}, [machine, user])
    assert found["index-url"] == "https://user", "a later file wins"
    assert found["find-links"] == "/from-install", "a command's own section wins over [global] of any file"
    assert found["proxy"] == "http://variable", "a variable wins over files"


def test_pip_agrees(tmp_path: Path) -> None:
    """The real pip, where there is one, names the same places from the same files."""
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode:
        pytest.skip("this environment has no pip")
    chosen = conf(tmp_path, "pip.conf", "[global]\nindex-url = https://chosen.example/simple\nfind-links = /chosen\n")
    env = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")} | {"PIP_CONFIG_FILE": str(chosen)}
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], env=env, capture_output=True, text=True, check=True).stdout
    assert f"global.index-url='{pip_configuration(env)['index-url']}'" in listed
    assert f"global.find-links='{pip_configuration(env)['find-links']}'" in listed


def test_no_files_when_pip_is_told_so() -> None:
    assert pip_configuration({"PIP_CONFIG_FILE": os.devnull, "HOME": "/"}) == {}


def test_unreadable_file_is_passed_over(tmp_path: Path) -> None:
    broken = conf(tmp_path, "broken", "no section here\n")
    assert uv_environment({}, [broken, tmp_path / "absent"]) == {"UV_INDEX_STRATEGY": "unsafe-best-match"}


@pytest.mark.parametrize(("value", "expected"), [("1", ["--no-index"]), ("true", ["--no-index"]), ("0", [])])
def test_no_index(value: str, expected: list[str]) -> None:
    assert uv_arguments({"PIP_NO_INDEX": value}, []) == expected


def test_places_never_show_a_password() -> None:
    env = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "https://me:secret@mirror.example/simple", "PIP_FIND_LINKS": "/wheels"}
    assert places(env) == ["https://mirror.example/simple", "/wheels"]
