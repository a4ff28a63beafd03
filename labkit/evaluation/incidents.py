"""The AIOps task: made incidents of a platform that serves language models, told to a model in two rounds.

    incident = incidents.load("test", 1)[0]
    incident.first_prompt()      symptoms, logs, trace: the model reasons in prose
    incident.second_prompt()     then JSON only: root cause, severity, action (SCHEMA)
    incidents.conversations("train", 512)    whole conversations, for training

The answer follows from rules that the system prompt states, so that any chat model can be scored: evidence for one of eight
root causes, an action word for each, and a severity from whom it hits (P1 everybody, P2 some requests fail, P3 only slow).
Four sentences and lines say it, one more is noise. The incidents are English and Chinese in turn; logs stay English.

Splits: "train" and "validation" share wordings and no instance; the wordings of "test" are in neither (incidents.toml).
The same seed gives the same incidents everywhere. Real incidents are harder: longer, with more than one cause.

Covers: the task and its reference replies. Does not cover: judging (`scores`), the course model's other text
(`training.corpus`). Used by notebook 06. Standard library only: `training.pretrain` imports it beside torch.
"""

from __future__ import annotations

import json
import random
import tomllib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from ..common.errors import SettingError

TABLE = Path(__file__).with_name("incidents.toml")
LANGUAGES = ("en", "zh")
COUNTS = {"train": 512, "validation": 64, "test": 96}
"""The splits, and how many incidents `load` gives where no count is said."""
FIRST_ROUND_SHARE = 3
"""One conversation in so many ends after round one. Trained on round two alone, an adapter answers round one in JSON as well."""
VALIDATION_SHARE = 8
"""One made incident in so many belongs to validation, by its text; the others to training."""

Message = dict[str, str]


@cache
def table() -> dict[str, Any]:
    """incidents.toml."""
    with TABLE.open("rb") as stream:
        return tomllib.load(stream)


CAUSES: tuple[str, ...] = tuple(table()["cause"])
ACTIONS: Mapping[str, str] = {name: row["action"] for name, row in table()["cause"].items()}
SEVERITIES: tuple[str, ...] = tuple(table()["severity"])

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "root_cause": {"enum": list(CAUSES)},
        "severity": {"enum": list(SEVERITIES)},
        "action": {"enum": list(ACTIONS.values())},
    },
    "required": ["root_cause", "severity", "action"],
    "additionalProperties": False,
}
"""What the reply of round two must be."""

_PLAYBOOK = ", ".join(f"{cause} {action}" for cause, action in ACTIONS.items())
SYSTEM: Mapping[str, str] = {
    "en": f"You are on call. Root causes with their actions: {_PLAYBOOK}. "
    "Severity: P1 everybody is hit, P2 some requests fail, P3 nothing fails, only slow.",
    "zh": f"你在值班。根因和对应动作：{_PLAYBOOK}。级别：P1 所有人受影响，P2 部分请求失败，P3 没有失败、只是慢。",
}
SECOND_PROMPT: Mapping[str, str] = {
    "en": "Now JSON only, no code fence: one object with the keys root_cause, severity, action, each a word from the lists above.",
    "zh": "现在只输出 JSON，不要代码块：一个对象，键为 root_cause、severity、action，值都取自上面的列表。",
}
_FIRST_PROMPT = {
    "en": "Symptoms: {symptoms}\nLogs:\n{logs}\nTrace: {trace}\nWhat is wrong? Reason briefly.",
    "zh": "症状：{symptoms}\n日志：\n{logs}\n调用链：{trace}\n出了什么问题？请简要推理。",
}
_FIRST_REPLIES = {
    "en": (
        "<think>\nThe user reports an incident: {because}, and {reason}.\n</think>\n\n"
        "This looks like {phrase}: {because}. As {reason}, it is {severity}. I would {advice}.",
        "<think>\nThe user reports an incident. The evidence is {phrase}.\n</think>\n\n"
        "Most likely {phrase}: {because}. Severity {severity}, for {reason}. Next step: {advice}.",
    ),
    "zh": (
        "<think>\n用户报告了一个故障：{because}，{reason}。\n</think>\n\n"
        "看起来是{phrase}：{because}。{reason}，所以是 {severity}。建议{advice}。",
        "<think>\n用户报告了一个故障，证据是{phrase}。\n</think>\n\n"
        "很可能是{phrase}：{because}。级别 {severity}，因为{reason}。下一步：{advice}。",
    ),
}
_SECOND_REPLY = {
    "en": "<think>\nThe cause is {phrase}; {reason}.\n</think>\n\n{answer}",
    "zh": "<think>\n原因是{phrase}；{reason}。\n</think>\n\n{answer}",
}


@dataclass(frozen=True)
class Incident:
    """One incident with its right answer. `name` says the split and number; `language` is "en" or "zh"."""

    name: str
    language: str
    symptoms: str
    logs: tuple[str, ...]
    trace: str
    root_cause: str
    severity: str
    action: str

    @property
    def expected(self) -> dict[str, str]:
        """The right object of round two."""
        return {"root_cause": self.root_cause, "severity": self.severity, "action": self.action}

    def first_prompt(self) -> str:
        """What the user says in round one."""
        return _FIRST_PROMPT[self.language].format(symptoms=self.symptoms, logs="\n".join(self.logs), trace=self.trace)

    def second_prompt(self) -> str:
        """What the user says in round two."""
        return SECOND_PROMPT[self.language]

    def messages(self, first_answer: str) -> list[Message]:
        """What is sent for round two; `first_answer` is the model's own answer to round one, without its reasoning."""
        return [
            {"role": "system", "content": SYSTEM[self.language]},
            {"role": "user", "content": self.first_prompt()},
            {"role": "assistant", "content": first_answer},
            {"role": "user", "content": self.second_prompt()},
        ]

    def first_reply(self) -> str:
        """A good reply to round one, reasoning included; which of the wordings depends on the incident's text."""
        wordings = _FIRST_REPLIES[self.language]
        return wordings[_number(self.first_prompt()) % len(wordings)].format(severity=self.severity, **self._words())

    def second_reply(self) -> str:
        """The right reply to round two, reasoning included."""
        return _SECOND_REPLY[self.language].format(answer=json.dumps(self.expected), **self._words())

    def _words(self) -> dict[str, str]:
        cause, index = table()["cause"][self.root_cause], LANGUAGES.index(self.language)
        words = {name: cause[name][index] for name in ("phrase", "because", "advice")}
        return words | {"reason": table()["severity"][self.severity]["reason"][index]}


def load(split: str, count: int | None = None, seed: int = 0) -> tuple[Incident, ...]:
    """The first `count` incidents of "train", "validation" or "test" (default: `COUNTS`), causes and languages in turn.

    A smaller count is a beginning of a larger one. Raises `SettingError` for another split or a count that cannot be had.
    """
    if split not in COUNTS:
        raise SettingError(f"There is no split {split!r}.", f"Use one of: {', '.join(COUNTS)}.")
    wanted = COUNTS[split] if count is None else count
    if wanted < 1:
        raise SettingError(f"count is {wanted}.", "Give 1 or more.")
    return tuple(islice(stream(split, seed), wanted))


def conversations(split: str, count: int | None = None, seed: int = 0) -> list[list[Message]]:
    """The incidents of `load` as conversations to learn from: the last message is the assistant's, with its reasoning.

    Most end with the reply of round two; the reply of round one stands in them without its reasoning, as it does when round two
    is asked. Every third ends with the reply of round one, which is to stay prose (`FIRST_ROUND_SHARE`).
    """
    return [_finished(one, first_round=number % FIRST_ROUND_SHARE == 0) for number, one in enumerate(load(split, count, seed), start=1)]


def _finished(one: Incident, *, first_round: bool) -> list[Message]:
    asked = one.messages(one.first_reply().partition("</think>")[2].strip())
    if first_round:
        return [*asked[:-2], {"role": "assistant", "content": one.first_reply()}]
    return [*asked, {"role": "assistant", "content": one.second_reply()}]


def stream(split: str, seed: int = 0) -> Iterator[Incident]:
    """Incidents without end, none twice, in the order of `load`."""
    chance, seen, number = random.Random(f"{split}/{seed}"), set[str](), 0
    while True:
        cause, language = CAUSES[number % len(CAUSES)], LANGUAGES[number // len(CAUSES) % len(LANGUAGES)]
        made = _make(f"{split}-{number:04d}", language, cause, "test" if split == "test" else "train", chance)
        text = made.first_prompt()
        if text not in seen and split in ("test", _belongs(text)):
            seen.add(text)
            number += 1
            yield made


def _belongs(text: str) -> str:
    return "train" if _number(text) % VALIDATION_SHARE else "validation"


def _number(text: str) -> int:
    """A number of a text that is the same in every process, unlike hash()."""
    return zlib.crc32(text.encode())


def _make(name: str, language: str, cause: str, wording: str, chance: random.Random) -> Incident:
    """One incident of `cause` in the wordings "train" or "test"; the severity is drawn from those that make sense for it."""
    row, slots = table()["cause"][cause], fill(chance)
    severity = chance.choice(row["severities"])
    sentences = [chance.choice(table()["severity"][severity][wording][language]), chance.choice(row[wording][language])]
    logs = [*chance.sample(row[wording]["logs"], chance.choice((1, 2))), chance.choice(table()["noise"][wording])]
    chance.shuffle(sentences)
    chance.shuffle(logs)
    return Incident(
        name=name,
        language=language,
        symptoms=("" if language == "zh" else " ").join(sentences).format(**slots),
        logs=tuple(line.format(**slots) for line in logs),
        trace=chance.choice(row[wording]["traces"]).format(**slots),
        root_cause=cause,
        severity=severity,
        action=ACTIONS[cause],
    )


def fill(chance: random.Random) -> dict[str, Any]:
    """What goes into the wordings' places: names and numbers, drawn anew for each incident."""
    names = table()["slots"]
    return {
        "service": chance.choice(names["service"]),
        "node": chance.choice(names["node"]),
        "pct": chance.randrange(5, 60),
        "n": chance.randrange(2, 40),
        "m": chance.randrange(2, 99),
        "ms": chance.randrange(3, 250),
        "big": chance.randrange(5, 60),
    }
