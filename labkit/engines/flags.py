"""Keywords to the flags of a command line, and back: what a command line says of a flag. The same for every engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def flags(options: dict[str, object]) -> list[str]:
    """Python keywords as command line flags, in order.

    max_model_len=1024 becomes --max-model-len 1024; True a bare flag; None and False are left out (say `no_x=True` for a
    --no-x flag); a list is repeated behind one flag; a dict becomes JSON, as vLLM wants its structured settings.
    """
    import json

    words: list[str] = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is None or value is False:
            continue
        if value is True:
            words.append(flag)
        elif isinstance(value, dict):
            words += [flag, json.dumps(value)]
        elif isinstance(value, (list, tuple)):
            words += [flag, *map(str, value)]
        else:
            words += [flag, str(value)]
    return words


def as_number(value: object) -> int | None:
    return int(str(value)) if str(value).isdigit() else None


def flag_number(command: Iterable[str], flag: str) -> int | None:
    """The number behind a flag, the last one where it is given twice; None without one."""
    words = split_words(command)
    found = [value for word, value in zip(words, words[1:], strict=False) if word == flag and value.isdigit()]
    return int(found[-1]) if found else None


def spelt(name: str) -> str:
    """A keyword as a flag."""
    return "--" + name.replace("_", "-")


def split_words(command: Iterable[str]) -> list[str]:
    """The words of a command line, --flag=value as two."""
    return [part for word in command for part in (word.split("=", 1) if word.startswith("--") else [word])]


LIMITS = ("--max-num-seqs", "--max-running-requests")


def batch_limit(command: Sequence[str]) -> int | None:
    """How many requests may run at once, from a command line; None without the flag."""
    words = [part for word in command for part in word.split("=", 1)]
    found = [value for flag, value in zip(words, words[1:], strict=False) if flag in LIMITS and value.isdigit()]
    return int(found[-1]) if found else None
