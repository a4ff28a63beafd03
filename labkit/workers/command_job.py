"""What `commands` asks of `command_worker`: the type that both sides import. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class CommandRequest:
    """`argv` is run in the folder `cwd`, its output kept in the file `log`.

    `steps` names a file of JSON lines in which the tool says how far it is (LLaMA-Factory's trainer_log.jsonl), "" for none.
    """

    argv: Sequence[str]
    cwd: str
    log: str
    steps: str
