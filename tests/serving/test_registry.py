"""Records of servers outlive an upgrade of labkit, in both directions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from labkit.cli import main
from labkit.engines import ENGINES
from labkit.serving.registry import FORMAT, Record, ServerFolder
from labkit.serving.server import Server, attach, running

OLD = json.loads((Path(__file__).parents[1] / "data" / "server-format-1.json").read_text())
"""As labkit 0.1.0 wrote it at db3d3b4, before a server knew its GPUs."""


@pytest.fixture
def upgraded(begin: Callable[..., Server], home: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A live server whose record an older labkit wrote: its guards are the same two programs."""
    server = begin(owner="lab").wait(30)
    monkeypatch.setitem(ENGINES, "fake", server.engine)
    file = home / "state" / "servers" / "fake" / "server.json"
    now = json.loads(file.read_text())
    file.write_text(json.dumps({name: now[name] for name in OLD}))
    return server


def test_a_server_that_an_older_labkit_started_is_found_and_stopped(upgraded: Server) -> None:
    server = attach("fake")
    assert [each.name for each in running()] == ["fake"]
    assert (server.pid, server.url, server.state, server.gpus) == (upgraded.pid, upgraded.url, "ready", [])
    assert server.answers() and [name for name, _ in server.stages][-1] == "serving"
    report = server.stop()
    assert (report.processes_left, report.returned, server.state) == (0, True, "ended")


def test_what_an_older_labkit_wrote_is_read_with_defaults() -> None:
    record = Record.from_json(OLD)
    assert (record.format, record.gpus, record.baseline, record.port) == (1, [], [], 54125)
    assert record.stages == [("importing", 0.2), ("serving", 0.0)]


def test_what_a_newer_labkit_adds_is_ignored(home: Path) -> None:
    folder = ServerFolder("fake")
    folder.save(replace(Record.from_json(OLD), format=FORMAT))
    for name, addition in (("server.json", {"nodes": [1, 2]}), ("exit.json", {"code": 0, "reason": "exited", "ended_at": 1.0, "why": "?"})):
        file = folder.folder / name
        file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | addition))
    assert folder.record == replace(Record.from_json(OLD), format=FORMAT)
    assert folder.exit is not None and (folder.exit.code, folder.exit.left) == (0, ())
    assert folder.status().note == "exited, exit code 0"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        "null",
        '"text"',
        "{}",
        '{"name": "fake"}',
        '{"stages": [1]}',
        json.dumps(OLD | {"created_at": "now"}),
        json.dumps(OLD | {"gpus": None}),
        '{"left": 5}',
        "\x00",
        '{"stages": 3}',
    ],
)
def test_one_record_that_cannot_be_read_hinders_nobody(text: str, begin: Callable[..., Server], home: Path) -> None:
    for name in ("server.json", "pids.json", "exit.json"):
        file = home / "state" / "servers" / "damaged" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    damaged = ServerFolder("damaged")
    assert (damaged.record, damaged.exit, damaged.guards(), damaged.processes()) == (None, None, [], [])
    assert damaged.status().state == "ended" and running() == []
    assert main(["ps"]) == 0
    assert begin(name="other").wait(30).state == "ready"


def test_a_server_of_a_newer_labkit_s_engine_is_listed_and_left_alone(
    begin: Callable[..., Server], capsys: pytest.CaptureFixture[str]
) -> None:
    live = begin(owner="lab").wait(30)
    ServerFolder("newer").save(replace(Record.from_json(OLD), name="newer", engine="tomorrow"))
    capsys.readouterr()
    assert main(["ps"]) == 0 and "tomorrow is no engine that this labkit knows" in capsys.readouterr().out
    assert main(["logs", "newer"]) == 1 and "'tomorrow', which this labkit does not know" in capsys.readouterr().err
    assert live.state == "ready"


WRONG = [
    ("server.json", change)
    for change in (
        {"port": -1}, {"port": 10**30}, {"command": [5]}, {"gpus": [1, {}]}, {"stages": [["a"]]}, {"stages": [["a", "b"]]}, {"baseline": ["x"]},
        {"created_at": float("inf")}, {"created_at": float("nan")}, {"created_at": 1e300}, {"ready_at": 10**40}, {"watcher": True},
        {"out": "\0"}, {"model": "\ud800"}, {"name": "other"}, {"name": "../x"},
    )
] + [
    ("exit.json", change)
    for change in ({"left": [1]}, {"left": [["a", "b"]]}, {"left": [[1]]}, {"left": [[1, 2, 3]]}, {"ended_at": float("nan")}, {"code": "x"})
]  # fmt: skip


@pytest.mark.parametrize(("file", "change"), WRONG, ids=str)
def test_fields_of_another_type_or_out_of_the_world_are_damage(
    file: str, change: dict[str, object], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ServerFolder("fake")
    folder.save(Record.from_json(OLD))
    good = {"server.json": OLD, "exit.json": {"code": 0, "reason": "exited", "ended_at": 1.0}}
    (folder.folder / "exit.json").write_text(json.dumps(good["exit.json"]))
    assert folder.record and folder.exit
    (folder.folder / file).write_text(json.dumps(good[file] | change))
    assert (folder.record if file == "server.json" else folder.exit) is None
    assert (folder.status().state, folder.processes(), main(["ps"])) == ("ended", [], 0)
    assert "fake" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        "[]", "{", "3", '{"fake m cpu": 3}', '{"fake m cpu": {"loading": "x"}}', '{"fake m cpu": {"loading": null}}',
        '{"fake m cpu": {"loading": NaN}}', '{"fake m cpu": {"loading": -5}}', '{"fake m cpu": {"loading": 1e400}}',
    ],
)  # fmt: skip
def test_times_of_earlier_starts_that_cannot_be_read_are_done_without(text: str, begin: Callable[..., Server], home: Path) -> None:
    (home / "state").mkdir()
    (home / "state" / "stages.json").write_text(text)
    assert begin().wait(30).state == "ready"


def test_a_folder_in_place_of_the_times_hinders_no_start(begin: Callable[..., Server], home: Path) -> None:
    (home / "state" / "stages.json").mkdir(parents=True)
    assert begin().wait(30).state == "ready"
