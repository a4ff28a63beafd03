"""Reading a file that grows: whole lines, whatever the moment of a poll; and a file that begins again."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.common.logs import MARK_BYTES, Follower


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "out.log"


def append(log: Path, data: bytes) -> None:
    with log.open("ab") as stream:
        stream.write(data)


def test_a_line_written_in_two_halves_comes_whole(log: Path) -> None:
    follower = Follower([log])
    assert follower.new() == ""
    append(log, b"INFO one\nINFO Load weight ")
    assert follower.new() == "INFO one\n"
    assert follower.new() == ""
    append(log, b"begin\n")
    assert follower.new() == "INFO Load weight begin\n"


def test_the_last_call_brings_the_line_that_has_not_ended(log: Path) -> None:
    follower = Follower([log])
    append(log, b"INFO one\nValueError: it was cut")
    assert follower.new() == "INFO one\n"
    assert follower.new(last=True) == "ValueError: it was cut\n"
    assert follower.new(last=True) == ""


def test_the_end_of_one_file_is_not_glued_to_the_begin_of_the_next(log: Path, tmp_path: Path) -> None:
    append(log, b"out")
    append(tmp_path / "err.log", b"err\n")
    assert Follower([log, tmp_path / "err.log"]).new(last=True) == "out\nerr\n"


def test_a_character_cut_in_two_comes_whole(log: Path) -> None:
    follower, word = Follower([log]), "显存\n".encode()
    append(log, word[:4])
    assert follower.new() == ""
    append(log, word[4:])
    assert follower.new() == "显存\n"
    append(log, word[:4])
    assert follower.new(last=True) == "显\ufffd\n"


def test_the_states_of_a_progress_bar_come_while_it_runs(log: Path) -> None:
    follower = Follower([log])
    append(log, b"\rCapturing CUDA graphs:   0%")
    assert follower.new() == "\r"
    append(log, b"\rCapturing CUDA graphs:  50%")
    assert follower.new() == "Capturing CUDA graphs:   0%\r"
    append(log, b"\rCapturing CUDA graphs: 100%\r\n")
    assert follower.new() == "Capturing CUDA graphs:  50%\rCapturing CUDA graphs: 100%\r\n"


@pytest.mark.parametrize("again", [b"two\n", b"new\n" * 5 * MARK_BYTES], ids=["shorter", "longer"])
@pytest.mark.parametrize("replaced", [False, True], ids=["truncated", "replaced"])
def test_a_file_that_begins_again_is_read_from_its_start(log: Path, again: bytes, replaced: bool) -> None:
    follower = Follower([log])
    append(log, b"the first start\n" * MARK_BYTES + b"half a line")
    assert len(follower.new()) == 16 * MARK_BYTES
    if replaced:
        log.unlink()
        assert follower.new() == ""
    log.write_bytes(again)
    assert follower.new() == again.decode()
    append(log, b"more\n")
    assert follower.new() == "more\n"
