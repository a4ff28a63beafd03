"""Questions about serving and their answers, for the course model's text: alone, in both languages, asked on, and as plain text.

Languages are numbers: 0 English, 1 Chinese. Every maker of a conversation takes the same arguments, whether it needs the incidents
or not. Covers: topics, facts, and what the model does not know and says so. Does not cover: incidents (`clues`).
Used by `corpus`. Standard library only.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

from ..evaluation.incidents import Incident
from .wordings import Answer, Message, dialogue, table

ASPECTS = ("what", "why", "how", "cost")


def question(rng: random.Random, stream: Iterator[Incident]) -> list[Message]:
    """A single question."""
    language = rng.randrange(2)
    return dialogue(rng, language, [_any_answer(rng, language)])


def both_languages(rng: random.Random, stream: Iterator[Incident]) -> list[Message]:
    """Asked in both languages at once, answered in both."""
    entry = rng.choice(entries())
    english, chinese = entry(rng, 0), entry(rng, 1)
    text = f"{english.question} {rng.choice((chinese.question, chinese.question, '一句话。'))}"
    return dialogue(rng, 0, [Answer(text, english.thought, f"{english.text} {chinese.text}")])


def talk(rng: random.Random, stream: Iterator[Incident]) -> list[Message]:
    """Two to four turns: the same topic asked on as "it", or another question."""
    language, turns = rng.randrange(2), list[Answer]()
    mixed = rng.random() < 0.15
    topic: dict[str, Any] = rng.choice(table()["topic"])
    for _ in range(rng.choice((2, 2, 2, 3, 3, 4))):
        if turns and rng.random() < 0.35:
            topic = rng.choice(table()["topic"])
            turns.append(_any_answer(rng, language) if rng.random() < 0.5 else _about(topic, rng, language, False))
        else:
            turns.append(_about(topic, rng, language, bool(turns), mixed))
    return dialogue(rng, language, turns)


def plain_text(rng: random.Random, stream: Iterator[Incident]) -> list[Message]:
    """Answers one after the other as plain text, for completions without a chat template."""
    language = rng.randrange(2)
    topic = rng.choice(table()["topic"])
    sentences = [topic[aspect][language] for aspect in ASPECTS if aspect in topic]
    return [{"role": "text", "content": ("" if language else " ").join(sentences)}]


@cache
def entries() -> list[Callable[[random.Random, int], Answer]]:
    """Everything that can be asked on its own; each makes an answer in the language of that number."""
    topics = [(topic, aspect) for topic in table()["topic"] for aspect in ASPECTS if aspect in topic]
    return [
        *(partial(_aspect, topic, aspect, following=False) for topic, aspect in topics),
        *(partial(_fact, fact) for fact in table()["fact"]),
    ]


def unknown(rng: random.Random, language: int) -> Answer:
    """Something that the model was not taught, and that it says so."""
    row = table()["unknown"]
    wording = rng.choice(row["ask"][language])
    text = wording.format(x=rng.choice(row["things"][language]), a=rng.randrange(1, 99), b=rng.randrange(1, 99))
    thought = ("The user asks about something that I was not taught.", "用户问的不是我学过的内容。")[language]
    return Answer(text, thought, row["say"][language])


def _any_answer(rng: random.Random, language: int) -> Answer:
    if rng.random() < 0.13:
        return unknown(rng, language)
    return rng.choice(entries())(rng, language)


def _about(topic: dict[str, Any], rng: random.Random, language: int, following: bool, mixed: bool = False) -> Answer:
    """A question about an aspect of a topic, by its name or as "it"; `mixed` asks in both languages and answers in both."""
    aspect = rng.choice([name for name in ASPECTS if name in topic])
    answer = _aspect(topic, aspect, rng, language, following)
    if not mixed:
        return answer
    other = _aspect(topic, aspect, rng, 1 - language, following)
    first, second = (answer, other) if language == 0 else (other, answer)
    return Answer(f"{first.question} {second.question}", first.thought, f"{first.text} {second.text}")


def _aspect(topic: dict[str, Any], aspect: str, rng: random.Random, language: int, following: bool) -> Answer:
    name = rng.choice(topic["name"][language])
    wording = rng.choice(table()["following" if following else "question"][aspect][language])
    thought = rng.choice(table()["thought"][aspect][language]).format(x=_spaced(topic["name"][language][0], language))
    return Answer(_worded(wording, name, language), thought, topic[aspect][language])


def _fact(fact: dict[str, Any], rng: random.Random, language: int) -> Answer:
    thought = ("The user asks a short question. I know this.", "用户问了一个简短的问题，这个我知道。")[language]
    return Answer(rng.choice(fact["ask"][language]), thought, fact["say"][language])


def _worded(wording: str, name: str, language: int) -> str:
    """The wording about `name`; in Chinese a Latin name is set off by spaces, sometimes already in the wording."""
    text = wording.format(x=_spaced(name, language)).replace("  ", " ").strip()
    return text[0].upper() + text[1:] if language == 0 and not name.startswith("--") else text


def _spaced(name: str, language: int) -> str:
    if language == 0:
        return name
    return f"{' ' if name[0].isascii() else ''}{name}{' ' if name[-1].isascii() else ''}"
