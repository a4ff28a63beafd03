"""What Open-WebUI is started with."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.common.settings import settings
from labkit.webui.data import Data
from labkit.webui.launch import PageLaunch


def test_an_environment_without_the_script_runs_the_same_through_its_python(own: Data, tmp_path: Path) -> None:
    """As `pip install --target` leaves it."""
    launch = PageLaunch(settings(), own, tmp_path / "python", 8080)
    assert launch.argv[:2] == [str(launch.python), "-c"] and "open_webui" in launch.argv[2]
    (tmp_path / "open-webui").touch()
    assert launch.argv == [str(tmp_path / "open-webui"), "serve", "--host", "127.0.0.1", "--port", "8080"]


def test_the_line_that_is_shown_reads_secrets_from_their_files(own: Data) -> None:
    launch = PageLaunch(settings(), own, Path("/python"), 8080)
    record = launch.record("lab")
    assert not any(secret in f"{record}{launch.environment}" for secret in launch.secrets.values())
    assert f'WEBUI_ADMIN_PASSWORD="$(cat {own.password_file})"' in record.shown and f'"$(cat {record.key_file})"' in record.shown


def test_browsers_may_call_it_by_each_port_of_a_tunnel_and_by_addresses_that_were_added(own: Data) -> None:
    allowed = PageLaunch(settings(), own, Path("/python"), 8080, ("https://box.example/",)).environment["CORS_ALLOW_ORIGIN"].split(";")
    assert {"http://127.0.0.1:8080", "http://localhost:18080", "http://127.0.0.1:28080", "https://box.example"} <= set(allowed)


def test_no_proxy_stands_between_it_and_an_engine(own: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "mirror.example,localhost")
    assert PageLaunch(settings(), own, Path("/python"), 8080).environment["NO_PROXY"] == "mirror.example,localhost,127.0.0.1,::1"
