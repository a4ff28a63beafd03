"""Keywords to a command line and back."""

from __future__ import annotations

from labkit.engines.flags import flag_number, flags


def test_flags_are_spelt_as_on_a_command_line() -> None:
    words = flags(
        {"max_model_len": 1024, "enable_lora": True, "dtype": None, "quiet": False, "lora_modules": ["a=/x", "b=/y"], "override": {"a": 1}}
    )
    assert words == ["--max-model-len", "1024", "--enable-lora", "--lora-modules", "a=/x", "b=/y", "--override", '{"a": 1}']


def test_of_a_flag_given_twice_the_last_counts_as_it_does_for_an_engine() -> None:
    assert flag_number(["serve", "m", "--max-loras", "2", "--max-loras=4"], "--max-loras") == 4
    assert flag_number(["--max-loras", "2", "--slots", "3"], "--max-loras", "--slots") == 3


def test_a_flag_without_a_number_is_none() -> None:
    assert flag_number(["--max-loras", "many"], "--max-loras") is None
    assert flag_number(["--max-loras"], "--max-loras") is None
