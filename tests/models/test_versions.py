"""Versions of a served model: the link and the history move together, and nothing that is not whole becomes current."""

import json
import os
from pathlib import Path

import pytest

from labkit.common.errors import LabError, SettingError
from labkit.models import versions
from labkit.models.versions import current, history, promote, rollback


def model(folder: Path, value: int = 0) -> Path:
    """A model of one tensor."""
    folder.mkdir(parents=True)
    data = bytes([value, 0, 0, 0])
    header = json.dumps({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    a, b, c = (model(tmp_path / name, number) for number, name in enumerate("abc"))
    return a, b, c


def test_the_link_leads_to_what_was_promoted_last(folders: tuple[Path, ...]) -> None:
    for folder in folders[:2]:
        version = promote(folder, "aiops")
        assert version.link.resolve() == folder
        assert current("aiops") == version
    assert [one.number for one in history("aiops").steps] == [1, 2]


def test_rollback_goes_back_one_by_one_and_keeps_every_folder(folders: tuple[Path, ...]) -> None:
    for folder in folders:
        promote(folder, "aiops")
    assert [rollback("aiops").folder for _ in range(2)] == [folders[1], folders[0]]
    assert current("aiops").link.resolve() == folders[0]
    assert all(folder.is_dir() for folder in folders)
    with pytest.raises(LabError, match="first version"):
        rollback("aiops")
    assert current("aiops").folder == folders[0]


def test_a_promotion_after_a_rollback_stands_on_what_was_gone_back_to(folders: tuple[Path, ...]) -> None:
    first, second, third = folders
    promote(first, "aiops")
    promote(second, "aiops")
    rollback("aiops")
    assert promote(third, "aiops").number == 3
    assert [one.folder for one in history("aiops").kept] == [first]
    assert rollback("aiops").folder == first


def test_promoting_what_is_current_changes_nothing(folders: tuple[Path, ...]) -> None:
    assert promote(folders[0], "aiops") == promote(folders[0], "aiops")
    assert len(history("aiops").steps) == 1


def test_names_do_not_touch_each_other(folders: tuple[Path, ...]) -> None:
    promote(folders[0], "one")
    promote(folders[1], "two")
    assert (current("one").folder, current("two").folder) == folders[:2]


@pytest.mark.parametrize("damage", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_is_not_whole_is_refused_and_nothing_changes(folders: tuple[Path, ...], damage: str) -> None:
    promote(folders[0], "aiops")
    (folders[1] / damage).unlink()
    with pytest.raises(LabError, match="no safetensors file|config.json|tokenizer"):
        promote(folders[1], "aiops")
    assert current("aiops").folder == folders[0]
    assert len(history("aiops").steps) == 1


def test_a_truncated_shard_is_named(folders: tuple[Path, ...]) -> None:
    shard = folders[0] / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(LabError, match="model.safetensors"):
        promote(folders[0], "aiops")


def test_a_missing_folder_and_an_adapter_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="is not there"):
        promote(tmp_path / "nowhere", "aiops")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(SettingError, match="is an adapter, not a model") as refused:
        promote(tmp_path / "adapter", "aiops")
    assert "merge" in refused.value.fix


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 65])
def test_a_name_that_would_leave_the_folder_is_refused(folders: tuple[Path, ...], name: str, home: Path) -> None:
    for call in (lambda: promote(folders[0], name), lambda: rollback(name), lambda: current(name), lambda: history(name)):
        with pytest.raises(SettingError, match="no name"):
            call()
    assert not home.exists()


def test_an_unknown_name_is_an_error_and_leaves_no_folder(home: Path) -> None:
    for call in (rollback, current, history):
        with pytest.raises(LabError, match="Nothing was promoted"):
            call("never")
    assert not home.exists()


def test_a_version_whose_folder_vanished_is_said_so(folders: tuple[Path, ...]) -> None:
    first, second, _ = folders
    promote(first, "aiops")
    promote(second, "aiops")
    first.rename(first.with_name("moved"))
    assert [one.state for one in history("aiops").steps] == ["gone", "there"]
    with pytest.raises(LabError, match=f"{first} is gone"):
        rollback("aiops")
    assert current("aiops").folder == second
    second.rename(second.with_name("moved too"))
    with pytest.raises(LabError, match=f"{second} is gone"):
        current("aiops")


def test_a_version_that_was_written_into_is_not_gone_back_to(folders: tuple[Path, ...]) -> None:
    first, second, _ = folders
    promote(first, "aiops")
    promote(second, "aiops")
    (first / "config.json").write_text('{"other": 1}')
    with pytest.raises(LabError, match="another model now"):
        rollback("aiops")
    assert "changed" in str(history("aiops"))


def test_killed_between_history_and_link_the_next_call_sets_the_link_right(
    folders: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(folders[0], "aiops")
    with monkeypatch.context() as patch:
        patch.setattr(versions, "_follow", lambda version: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            promote(folders[1], "aiops")
    link = history("aiops").current.link
    assert os.readlink(link) == str(folders[0])
    assert current("aiops").folder == folders[1]
    assert os.readlink(link) == str(folders[1])
    assert rollback("aiops").folder == folders[0]


def test_a_damaged_history_is_named(folders: tuple[Path, ...]) -> None:
    path = promote(folders[0], "aiops").link.with_name("history.json")
    for content in ("{", "{}", '{"steps": []}', '{"steps": [{"event": "rollback"}]}'):
        path.write_text(content)
        with pytest.raises(LabError, match="history.json cannot be read"):
            current("aiops")


def test_the_history_shows_itself(folders: tuple[Path, ...]) -> None:
    promote(folders[0], "aiops")
    promote(folders[1], "aiops")
    rollback("aiops")
    shown = history("aiops")
    assert str(shown).splitlines()[-1].split()[:2] == ["1", "rollback"]
    assert str(shown).splitlines()[-1].endswith("there, current")
    assert str(folders[1]) in shown._repr_html_()
