"""Incidents for the course model's text: with the prose of round one and prose about them, single clues, the playbook's short names,
and a little JSON for other tasks.

None of it is the JSON of round two, which is left to the adapter. Languages are numbers: 0 English, 1 Chinese. Covers: everything that
is made of the incidents' table. Does not cover: the incidents themselves (`evaluation.incidents`), questions about serving
(`questions`). Used by `corpus`. Standard library only.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from ..evaluation import incidents
from ..evaluation.incidents import LANGUAGES, Incident, fill
from .questions import entries, unknown
from .wordings import Message, exchange, reply, table, vary


def first_round(rng: random.Random, stream: Iterator[Incident]) -> list[Message]:
    """Round one as it is; sometimes without the system prompt, or with a part of what is known only."""
    incident = next(stream)
    messages = incident.messages("")[:2]
    if rng.random() < 0.3:
        parts = [incident.symptoms, "\n".join(incident.logs), incident.trace]
        report = "\n".join(rng.sample(parts, rng.choice((1, 2, 2))))
        if incident.symptoms not in report:  # without symptoms nothing tells the severity
            return _cause(report, incident.root_cause, LANGUAGES.index(incident.language), rng)
        messages[1] = {"role": "user", "content": report}
    if rng.random() < 0.2:
        messages = messages[1:]
    return [*messages, {"role": "assistant", "content": incident.first_reply()}]


def second_turn(rng: random.Random, stream: Iterator[Incident]) -> list[Message]:
    """A second turn about an incident, answered in prose; or a ticket in JSON, whose keys are not those of round two."""
    incident = next(stream)
    language = LANGUAGES.index(incident.language)
    about = table()["about"]
    turn = about[rng.randrange(len(about))]
    severity = incidents.table()["severity"][incident.severity]
    words = _cause_words(incident.root_cause, language) | {"reason": severity["reason"][language]}
    ticket = json.dumps({"title": words["phrase"], "urgent": incident.severity == "P1"}, ensure_ascii=False)
    text = turn["say"][language].format(severity=incident.severity, action=incident.action, ticket=ticket, **words)
    thought = ("The user asks about the incident.", "用户在问这个故障。")[language]
    before = incident.messages(incident.first_reply().partition("</think>")[2].strip())[:3]
    if rng.random() < 0.2:
        before = before[1:]
    return [*before, *exchange(rng.choice(turn["ask"][language]), reply(thought, text, rng))]


def clue(rng: random.Random, stream: Iterator[Incident]) -> list[Message]:
    """One clue on its own: a word, a log line, a sentence. English ones are asked about in both languages."""
    if rng.random() < 0.45:
        return _severity_clue(rng)
    cause = rng.choice(incidents.CAUSES)
    row, slots = incidents.table()["cause"][cause], fill(rng)
    text = rng.choice(row["clues"])
    language = rng.randrange(2) if text.isascii() else 1
    if rng.random() < 0.3:
        lines = [*row["train"]["logs"], *row["train"][LANGUAGES[language]], *row["train"]["traces"]]
        text = rng.choice(lines).format(**slots).rstrip(".。")
    wording = rng.choice(table()["clue"]["cause"][language])
    question = wording.format(clue=text, level=rng.choice(("ERROR", "WARN", "INFO")), service=slots["service"])
    return _cause(question, cause, language, rng)


def glossary(rng: random.Random, stream: Iterator[Incident]) -> list[Message]:
    """The short names that the playbook uses, in sentences: what each means, which action belongs to it."""
    cause, language = rng.choice(incidents.CAUSES), rng.randrange(2)
    words = _cause_words(cause, language) | {"cause": cause, "action": incidents.ACTIONS[cause]}
    row = rng.choice(table()["glossary"])
    thought = ("The user asks about a short name.", "用户问的是一个简称。")[language]
    question = vary(rng.choice(row["ask"][language]).format(**words), rng, language)
    return exchange(question, reply(thought, row["say"][language].format(**words), rng))


def json_task(rng: random.Random, stream: Iterator[Incident]) -> list[Message]:
    """Small tasks whose answer is JSON: what an object looks like. None has the keys of round two."""
    language = rng.randrange(2)
    task, answer = rng.choice(_JSON_TASKS)(rng, language)
    wish = rng.choice((("As JSON.", "JSON only.", "Answer in JSON."), ("用 JSON 回答。", "只输出 JSON。", "JSON 格式。"))[language])
    thought = ("The user asks for JSON.", "用户要 JSON。")[language]
    question = f"{task} {wish}" if rng.random() < 0.7 else f"{wish} {task}"
    return exchange(question, reply(thought, json.dumps(answer, ensure_ascii=False), rng))


def _cause(evidence: str, cause: str, language: int, rng: random.Random) -> list[Message]:
    """Something that points to a cause, and the answer that says which."""
    words = _cause_words(cause, language)
    text = (
        ("This looks like {phrase}: {because}. I would {advice}.", "看起来是{phrase}：{because}。建议{advice}。"),
        ("It points to {phrase}: {because}.", "说明是{phrase}：{because}。"),
    )[rng.randrange(2)][language].format(**words)
    thought = ("The user shows evidence of {phrase}.", "用户给出的证据说明是{phrase}。")[language].format(**words)
    return exchange(evidence, reply(thought, text, rng))


def _cause_words(cause: str, language: int) -> dict[str, str]:
    row = incidents.table()["cause"][cause]
    return {name: row[name][language] for name in ("phrase", "because", "advice")}


def _severity_clue(rng: random.Random) -> list[Message]:
    severity = rng.choice(incidents.SEVERITIES)
    row = incidents.table()["severity"][severity]
    text = rng.choice(row["clues"])
    language = 0 if text.isascii() else 1
    if rng.random() < 0.3:
        text = rng.choice(row["train"][LANGUAGES[language]]).format(**fill(rng)).rstrip(".。")
    reason = row["reason"][language]
    answer = (f"That is {severity}: {reason}.", f"这是 {severity}：{reason}。")[language]
    thought = (f"The user asks how severe it is: {reason}.", f"用户问严重程度：{reason}。")[language]
    sentences = incidents.table()["cause"][rng.choice(incidents.CAUSES)]["train"][LANGUAGES[language]]
    wording = rng.choice(table()["clue"]["severity"][language])
    question = wording.format(clue=text, cause=rng.choice(sentences).format(**fill(rng)))
    return exchange(question, reply(thought, answer, rng))


def _server_task(rng: random.Random, language: int) -> tuple[str, Any]:
    name, port = fill(rng)["service"], rng.choice((8000, 8080, 30000, 3000, 9090, 443))
    return (f"{name} listens on port {port}.", f"{name} 监听 {port} 端口。")[language], {"name": name, "port": port}


def _size_task(rng: random.Random, language: int) -> tuple[str, Any]:
    size, unit = rng.randrange(2, 99), rng.choice(("GB", "MB", "ms", "s"))
    return (f"It takes {size} {unit}.", f"需要 {size} {unit}。")[language], {"value": size, "unit": unit}


def _nodes_task(rng: random.Random, language: int) -> tuple[str, Any]:
    nodes = rng.sample(incidents.table()["slots"]["node"], rng.choice((2, 3)))
    return (f"The nodes are {' and '.join(nodes)}.", f"节点有 {' 和 '.join(nodes)}。")[language], {"nodes": nodes}


def _topic_task(rng: random.Random, language: int) -> tuple[str, Any]:
    taught = rng.random() < 0.5
    answer = rng.choice(entries())(rng, language) if taught else unknown(rng, language)
    return (f"Is this about serving: {answer.question}", f"这是关于模型服务的吗：{answer.question}")[language], {"serving": taught}


_JSON_TASKS: tuple[Callable[[random.Random, int], tuple[str, Any]], ...] = (_server_task, _size_task, _nodes_task, _topic_task)
