"""What a reader of an error sees: the cause, the fix, the log line that matters, and no stack of the kit's own."""

from __future__ import annotations

from labkit.common.errors import LabError, NoSpace, StartFailed


def test_an_error_is_its_cause_and_its_fix() -> None:
    error = NoSpace(" The disk is full. ", " Make room. ")
    assert (error.cause, error.fix) == ("The disk is full.", "Make room.") and str(error) == "The disk is full.\nFix: Make room."
    assert error._render_traceback_() == ["NoSpace: The disk is full.\nFix: Make room."]
    assert str(LabError("It is gone.", "")) == "It is gone."


def test_a_failed_start_shows_the_line_and_where_the_others_are() -> None:
    error = StartFailed("It ended.", "Read on.", line="ValueError: x", log="/logs/err.log")
    assert str(error) == "It ended.\nLog line: ValueError: x\nWhole log: /logs/err.log\nFix: Read on."
    assert str(StartFailed("It ended.", "Read on.")) == "It ended.\nFix: Read on."
