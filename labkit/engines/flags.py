"""Keywords to the flags of a command line, and back: what a command line says of a flag. The same for every engine.

Not here: which flags an engine has (its own module), which of two engines calls them what (`engines.pairs`). Used by `serving`,
which starts engines, and by `benchmark`, which wants to know what a running one may do at once.
"""

from __future__ import annotations

from collections.abc import Iterable

BATCH_LIMITS = ("--max-num-seqs", "--max-running-requests")
"""How many requests may run at once: vLLM's flag and SGLang's."""


def spelt(name: str) -> str:
    """A keyword as a flag: max_model_len is --max-model-len."""
    return "--" + name.replace("_", "-")


def flags(options: dict[str, object]) -> list[str]:
    """Python keywords as command line flags, in order.

    max_model_len=1024 becomes --max-model-len 1024; True a bare flag; None and False are left out (say `no_x=True` for a
    --no-x flag); a list is repeated behind one flag; a dict becomes JSON, as vLLM wants its structured settings.
    """
    import json

    argv: list[str] = []
    for name, value in options.items():
        if value is None or value is False:
            continue
        argv.append(spelt(name))
        if isinstance(value, dict):
            argv.append(json.dumps(value))
        elif isinstance(value, (list, tuple)):
            argv += map(str, value)
        elif value is not True:
            argv.append(str(value))
    return argv


def split_words(command: Iterable[str]) -> list[str]:
    """The words of a command line, --flag=value as two, and flags with hyphens, as the engines themselves read --max_num_seqs."""
    words = [part for word in command for part in (word.split("=", 1) if word.startswith("-") else [word])]
    return [word.replace("_", "-") if word.startswith("--") else word for word in words]


def as_number(value: object) -> int | None:
    """`value` as a count, None where it is none."""
    return int(str(value)) if str(value).isdigit() else None


def flag_number(command: Iterable[str], *names: str) -> int | None:
    """The number behind a flag of one of `names`, the last one where it is given twice; None without one."""
    argv = split_words(command)
    numbers = [as_number(value) for flag, value in zip(argv, argv[1:], strict=False) if flag in names and value.isdigit()]
    return numbers[-1] if numbers else None


def flag_text(command: Iterable[str], *names: str) -> str | None:
    """The word behind a flag of one of `names`, the last one where it is given twice; None without one."""
    argv = split_words(command)
    words = [value for flag, value in zip(argv, argv[1:], strict=False) if flag in names and not value.startswith("--")]
    return words[-1] if words else None


def batch_limit(command: Iterable[str]) -> int | None:
    """How many requests may run at once, from a command line; None without the flag."""
    return flag_number(command, *BATCH_LIMITS)
