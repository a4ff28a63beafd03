"""The first training example that LLaMA-Factory prints, held against the conversation that it was made of.

A template that changes the reply, and a `max_length` that cuts it, go by without a word; here they are errors before the first step.
Covers: reading the example from the lines of its log. Does not cover: running it (`llamafactory`), which uses this.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..common.errors import LabError
from .conversations import Messages


@dataclass(frozen=True)
class Example:
    """The longest conversation as LLaMA-Factory feeds it: the whole text, and the part that is learnt, both with special tokens."""

    text: str
    learnt: str

    def __str__(self) -> str:
        before = self.text.removesuffix(self.learnt).rstrip("\n")
        return f"--- read, not learnt\n{before}\n--- learnt\n{self.learnt}"


class ExampleReader:
    """Finds in what LLaMA-Factory prints the first training example, and holds it against the conversation that it was made of."""

    def __init__(self, conversation: Messages) -> None:
        self.conversation = conversation
        self.example: Example | None = None
        self._part = ""
        self._lines: dict[str, list[str]] = {"inputs:": [], "labels:": []}

    def take(self, line: str) -> None:
        """One line of output. Raises `LabError` where the example is not what was given."""
        if self.example is not None:
            return
        if line in ("training example:", "input_ids:", "inputs:", "label_ids:", "labels:") and (self._part or line == "training example:"):
            self._part = line
        elif self._part == "labels:" and re.match(r"\[(INFO|WARNING|ERROR)\|", line):
            self.example = Example(*("\n".join(lines).rstrip("\n") for lines in self._lines.values()))
            self._compare(self.example)
        elif self._part in self._lines:
            self._lines[self._part].append(line)

    def _compare(self, example: Example) -> None:
        """Spaces and line ends aside, which tokenizers decode each in their own way."""
        text, learnt = _squeezed(example.text), _squeezed(example.learnt)
        position = 0
        for number, message in enumerate(self.conversation):
            content = _squeezed(message["content"])
            start = text.find(content, position)
            if start < 0:
                raise self._error(f"its message {number} ({message['role']}) is not in what is read, at least not whole", example)
            position = start + len(content)
        if not learnt.startswith(_squeezed(self.conversation[-1]["content"])):
            raise self._error("what is learnt is not its last reply", example)

    def _error(self, what: str, example: Example) -> LabError:
        return LabError(
            f"LLaMA-Factory makes something else of the longest conversation: {what}.\n{example}",
            "Give a larger max_length if it was cut off, or another template (None takes the base's own). Nothing was trained.",
        )


def _squeezed(text: str) -> str:
    return "".join(text.split())
