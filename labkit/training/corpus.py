"""The text that the course model learns from: made conversations, English and Chinese, the same for the same seed.

What it holds, in the shares of `KINDS`: questions and answers about serving (corpus.toml, 316 of them, each asked in many ways),
conversations with follow-up questions, things it does not know and says so, incidents with the prose of round one and prose
about them, single clues ("what does ENOSPC mean?"), the playbook's short names, a little JSON for other tasks, plain text.
What it does not hold: the JSON of round two. That is left to the adapter, so that there is something to see.

`render` writes a conversation with the marks of ChatML, exactly as the chat template does, in pieces: those that are learnt
and those that only stand before them. Only the last reply is learnt; earlier ones stand without their reasoning, as a
client sends them.

Covers: the text. Does not cover: tokens and training (`pretrain`), the incidents themselves (`incidents`). Standard library only.
"""

from __future__ import annotations

import json
import random
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ..evaluation import incidents
from ..evaluation.incidents import LANGUAGES, Incident, fill

TABLE = Path(__file__).with_name("corpus.toml")
ASPECTS = ("what", "why", "how", "cost")
NO_THOUGHT = "<think>\n\n</think>\n\n"
HEARD_WEIGHT = 0.1
"""What users and system prompts say is learnt a little too: a model that could have written a log line knows it better."""

Message = dict[str, str]


class Piece(NamedTuple):
    """A piece of text and how much its tokens count in the loss: 1 for what is learnt, 0 for what only stands before it."""

    text: str
    weight: float


class Answer(NamedTuple):
    """A question, and the reasoning and text of its answer; `follow` asks the same of "it"."""

    question: str
    thought: str
    text: str
    follow: str = ""


QUESTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "what": (
        ("What is {x}?", "What's {x}?", "What does {x} mean?", "Explain {x}.", "Can you explain {x}?", "Define {x}.", "{x}?")
        + ("Tell me about {x}.", "What is meant by {x}?", "I do not know {x}. What is it?", "Describe {x} in one sentence."),
        ("什么是{x}？", "{x}是什么？", "{x} 是什么意思？", "解释一下{x}。", "请介绍{x}。", "{x}？", "讲讲{x}。", "一句话说明{x}。"),
    ),
    "why": (
        ("Why {x}?", "What is {x} good for?", "What's {x} good for?", "Why do we need {x}?", "Why should I use {x}?")
        + ("What is the use of {x}?", "What does {x} bring?", "Why is {x} useful?", "What is the purpose of {x}?"),
        ("为什么要用{x}？", "{x}有什么用？", "{x}有什么好处？", "为什么需要{x}？", "{x}的作用是什么？"),
    ),
    "how": (
        ("How does {x} work?", "How do I use {x}?", "How is {x} used?", "How can I work with {x}?", "How does one set {x}?")
        + ("Explain how {x} works.", "How do I get the best out of {x}?"),
        ("{x}怎么用？", "{x}是怎么工作的？", "怎么使用{x}？", "{x}的原理是什么？", "如何设置{x}？"),
    ),
    "cost": (
        ("What does {x} cost?", "What is the price of {x}?", "Who pays for {x}?", "What is the drawback of {x}?", "Is {x} free?")
        + ("What is bad about {x}?", "What are the disadvantages of {x}?"),
        ("{x}的代价是什么？", "{x}有什么缺点？", "{x}的代价由谁承担？", "{x}有代价吗？", "用{x}要付出什么？"),
    ),
}
"""Wordings of each aspect, in both languages."""
FOLLOWING: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "what": (
        ("And what is it?", "What is it, in short?", "Say it again in one sentence."),
        ("那它是什么？", "简单说它是什么？", "再说一遍。"),
    ),
    "why": (("And why?", "What is it good for?", "Why do we need it?", "And what for?"), ("为什么？", "它有什么用？", "那有什么好处？")),
    "how": (("How does it work?", "And how?", "How do I use it?"), ("它怎么工作？", "怎么用？", "那怎么做？")),
    "cost": (
        ("And who pays for it?", "What does it cost?", "And the price?", "Is there a drawback?"),
        ("代价由谁承担？", "有什么代价？", "有缺点吗？"),
    ),
}
THOUGHTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "what": (("The user asks what {x} is. One sentence is enough.",), ("用户问{x}是什么，一句话就够了。",)),
    "why": (("The user asks what {x} is good for.",), ("用户问{x}有什么用。",)),
    "how": (("The user asks how {x} works or is used.",), ("用户问{x}怎么用。",)),
    "cost": (("The user asks what {x} costs.",), ("用户问{x}的代价。",)),
}
SYSTEMS = (("You are a helpful assistant.", "Answer in one sentence."), ("你是一个有帮助的助手。", "请用一句话回答。"))
OPENINGS = (("", "", "", "", "Please: ", "Hi. ", "A question: "), ("", "", "", "", "请问，", "你好，", "问一下："))
ENDINGS = (("", "", "", "", " One sentence.", " In short, please.", " Briefly."), ("", "", "", "", "一句话。", "简单说。"))
CLUES = (
    ("What does {clue} mean?", "I see: {clue}", "The log says: {clue}", "{clue}. What is wrong?", "Which cause has {clue}?", "{clue}?")
    + ("Log: {level} {service}: {clue}", "Symptoms: {clue}.", "Somebody reports: {clue}. What is it?", "Trace: {service} > {clue}"),
    ("{clue} 是什么意思？", "我看到：{clue}", "日志写着：{clue}", "{clue}，怎么回事？", "{clue} 的原因是什么？")
    + ("日志：{level} {service}: {clue}", "症状：{clue}。", "有人报告：{clue}。这是什么问题？", "调用链：{service} > {clue}"),
)
SEVERITY_CLUES = (
    ("How severe is it: {clue}?", "Which severity is {clue}?", "{clue}: P1, P2 or P3?", "Somebody says: {clue}. How bad is that?")
    + ("Symptoms: {clue}. {cause} Which severity?", "Symptoms: {cause} It is like this: {clue}. How severe is it?")
    + ("Somebody reports: {cause} And: {clue}. How bad is that?",),
    ("{clue}，是什么级别？", "{clue}：P1、P2 还是 P3？", "有人说{clue}，有多严重？")
    + ("症状：{clue}。{cause}是什么级别？", "症状：{cause}情况是：{clue}。有多严重？", "有人报告：{cause}而且{clue}。级别？"),
)
"""Some beside a sentence about the cause: in an incident, too, the severity is one sentence of several."""


@cache
def table() -> dict[str, Any]:
    """corpus.toml."""
    with TABLE.open("rb") as stream:
        return tomllib.load(stream)


def conversations(count: int, seed: int = 0) -> Iterator[list[Message]]:
    """`count` conversations; the last message is the assistant's, with its reasoning. A single message is plain text."""
    chance = random.Random(f"corpus/{seed}")
    kinds, shares = zip(*KINDS, strict=True)
    stream = incidents.stream("train", seed + 1)
    for _ in range(count):
        yield chance.choices(kinds, shares)[0](chance, stream)


def render(messages: list[Message]) -> list[Piece]:
    """The conversation as ChatML, in pieces. An empty reasoning, which a client asks for, is not learnt."""
    if len(messages) == 1:
        return [Piece(messages[0]["content"] + "<|endoftext|>", 1.0)]
    before = [piece for one in messages[:-1] for piece in _turn(one)]
    reply = messages[-1]["content"]
    given = NO_THOUGHT if reply.startswith(NO_THOUGHT) else ""
    return [*before, Piece(f"<|im_start|>assistant\n{given}", 0.0), Piece(reply.removeprefix(given) + "<|im_end|>", 1.0), Piece("\n", 0.0)]


def _turn(message: Message) -> list[Piece]:
    weight = 0.0 if message["role"] == "assistant" else HEARD_WEIGHT
    return [Piece(f"<|im_start|>{message['role']}\n", 0.0), Piece(message["content"], weight), Piece("<|im_end|>\n", 0.0)]


def _question(chance: random.Random, stream: Iterator[Incident]) -> list[Message]:
    language = chance.randrange(2)
    return _dialogue(chance, language, [_any_answer(chance, language)])


def _both_languages(chance: random.Random, stream: Iterator[Incident]) -> list[Message]:
    """Asked in both languages at once, answered in both."""
    entry = chance.choice(_entries())
    english, chinese = entry(chance, 0), entry(chance, 1)
    question = f"{english.question} {chance.choice((chinese.question, chinese.question, '一句话。'))}"
    return _dialogue(chance, 0, [Answer(question, english.thought, f"{english.text} {chinese.text}")])


def _talk(chance: random.Random, stream: Iterator[Incident]) -> list[Message]:
    """Two to four turns: the same topic asked on as "it", or another question."""
    language, turns = chance.randrange(2), list[Answer]()
    mixed = chance.random() < 0.15
    topic: dict[str, Any] = chance.choice(table()["topic"])
    for _ in range(chance.choice((2, 2, 2, 3, 3, 4))):
        if turns and chance.random() < 0.35:
            topic = chance.choice(table()["topic"])
            turns.append(_any_answer(chance, language) if chance.random() < 0.5 else _about(topic, chance, language, False))
        else:
            turns.append(_about(topic, chance, language, bool(turns), mixed))
    return _dialogue(chance, language, turns)


def _about(topic: dict[str, Any], chance: random.Random, language: int, following: bool, mixed: bool = False) -> Answer:
    """A question about an aspect of a topic, by its name or as "it"; `mixed` asks in both languages and answers in both."""
    aspect = chance.choice([name for name in ASPECTS if name in topic])
    one = _aspect(topic, aspect, chance, language, following)
    if not mixed:
        return one
    other = _aspect(topic, aspect, chance, 1 - language, following)
    first, second = (one, other) if language == 0 else (other, one)
    return Answer(f"{first.question} {second.question}", first.thought, f"{first.text} {second.text}")


def _aspect(topic: dict[str, Any], aspect: str, chance: random.Random, language: int, following: bool) -> Answer:
    name = chance.choice(topic["name"][language])
    wording = chance.choice(FOLLOWING[aspect][language] if following else QUESTIONS[aspect][language])
    thought = chance.choice(THOUGHTS[aspect][language]).format(x=_spaced(topic["name"][language][0], language))
    return Answer(_told(wording, name, language), thought, topic[aspect][language])


def _told(wording: str, name: str, language: int) -> str:
    """The wording about `name`; in Chinese a Latin name is set off by spaces, sometimes already in the wording."""
    told = wording.format(x=_spaced(name, language) if language else name).replace("  ", " ").strip()
    return told[0].upper() + told[1:] if language == 0 and not name.startswith("--") else told


def _spaced(name: str, language: int) -> str:
    if language == 0:
        return name
    return f"{' ' if name[0].isascii() else ''}{name}{' ' if name[-1].isascii() else ''}"


@cache
def _entries() -> list[Callable[[random.Random, int], Answer]]:
    """Everything that can be asked on its own."""
    topics = [(topic, aspect) for topic in table()["topic"] for aspect in ASPECTS if aspect in topic]
    asked: list[Callable[[random.Random, int], Answer]] = [
        lambda chance, language, topic=topic, aspect=aspect: _aspect(topic, aspect, chance, language, False)  # type: ignore[misc]
        for topic, aspect in topics
    ]
    return asked + [lambda chance, language, fact=fact: _fact(fact, chance, language) for fact in table()["fact"]]


def _fact(fact: dict[str, Any], chance: random.Random, language: int) -> Answer:
    thought = ("The user asks a short question. I know this.", "用户问了一个简短的问题，这个我知道。")[language]
    return Answer(chance.choice(fact["ask"][language]), thought, fact["say"][language])


def _unknown(chance: random.Random, language: int) -> Answer:
    row = table()["unknown"]
    wording = chance.choice(row["ask"][language])
    asked = wording.format(x=chance.choice(row["things"][language]), a=chance.randrange(1, 99), b=chance.randrange(1, 99))
    thought = ("The user asks about something that I was not taught.", "用户问的不是我学过的内容。")[language]
    return Answer(asked, thought, row["say"][language])


def _any_answer(chance: random.Random, language: int) -> Answer:
    if chance.random() < 0.13:
        return _unknown(chance, language)
    return chance.choice(_entries())(chance, language)


def _dialogue(chance: random.Random, language: int, turns: list[Answer]) -> list[Message]:
    """Messages of the turns: openings and endings added, case and punctuation varied, now and then a system prompt."""
    system = [{"role": "system", "content": chance.choice(SYSTEMS[language])}] if chance.random() < 0.25 else []
    messages: list[Message] = [*system]
    for one in turns:
        messages += [
            {"role": "user", "content": _varied(one.question, chance, language)},
            {"role": "assistant", "content": one.text},
        ]
    messages[-1]["content"] = _reply(turns[-1].thought, turns[-1].text, chance)
    return messages


def _varied(question: str, chance: random.Random, language: int) -> str:
    told = chance.choice(OPENINGS[language]) + question + chance.choice(ENDINGS[language])
    if language == 0 and chance.random() < 0.15:
        told = told.lower()
    if chance.random() < 0.12:
        told = told.rstrip("?.？。")
    return told


def _reply(thought: str, text: str, chance: random.Random) -> str:
    """With reasoning; seldom with the empty one that a client asks for (enable_thinking=False)."""
    return NO_THOUGHT + text if chance.random() < 0.04 else f"<think>\n{thought}\n</think>\n\n{text}"


def _incident(chance: random.Random, stream: Iterator[Incident]) -> list[Message]:
    """Round one as it is; sometimes without the system prompt, or with a part of what is known only."""
    one = next(stream)
    messages = one.messages("")[:2]
    if chance.random() < 0.3:
        parts = [one.symptoms, "\n".join(one.logs), one.trace]
        told = "\n".join(chance.sample(parts, chance.choice((1, 2, 2))))
        if one.symptoms not in told:  # without symptoms nothing tells the severity
            return _plain_cause(told, one, chance)
        messages[1] = {"role": "user", "content": told}
    if chance.random() < 0.2:
        messages = messages[1:]
    return [*messages, {"role": "assistant", "content": one.first_reply()}]


def _after_incident(chance: random.Random, stream: Iterator[Incident]) -> list[Message]:
    """A second turn about an incident, answered in prose; or a ticket in JSON, whose keys are not those of round two."""
    one = next(stream)
    language = LANGUAGES.index(one.language)
    index = chance.randrange(len(_ABOUT[language]))
    question, answer = _ABOUT[language][index]
    row, severity = incidents.table()["cause"][one.root_cause], incidents.table()["severity"][one.severity]
    words = {name: row[name][language] for name in ("phrase", "because", "advice")} | {"reason": severity["reason"][language]}
    ticket = json.dumps({"title": words["phrase"], "urgent": one.severity == "P1"}, ensure_ascii=False)
    text = answer.format(severity=one.severity, action=one.action, ticket=ticket, **words)
    thought = ("The user asks about the incident.", "用户在问这个故障。")[language]
    before = one.messages(one.first_reply().partition("</think>")[2].strip())[:3]
    if chance.random() < 0.2:
        before = before[1:]
    return [*before, {"role": "user", "content": chance.choice(question)}, {"role": "assistant", "content": _reply(thought, text, chance)}]


_ABOUT = (
    (
        (("What should I do?", "What is the first step?", "And now?", "What would you do?"), "I would {advice}."),
        (("How severe is it?", "Which severity?", "How bad is it?"), "It is {severity}, for {reason}."),
        (("Why do you think so?", "What is the evidence?", "Are you sure?"), "The evidence says so: {because}."),
        (
            ("Root cause, severity and action?", "Sum it up.", "The result in one line, please.", "Now the result."),
            "Root cause: {phrase}. Severity: {severity}. Action: {action}.",
        ),
        (("Which action?", "One word for the action.", "What is the action called?"), "Action: {action}."),
        (("Write a ticket as JSON.", "The ticket in JSON, please."), "{ticket}"),
        (("Thanks", "Thank you", "Good, thanks"), "You are welcome. Tell me how it went."),
    ),
    (
        (("该怎么办？", "第一步做什么？", "现在呢？", "你会怎么做？"), "建议{advice}。"),
        (("有多严重？", "什么级别？", "严重吗？"), "级别 {severity}，因为{reason}。"),
        (("为什么这么认为？", "证据是什么？", "确定吗？"), "证据表明：{because}。"),
        (("根因、级别和动作？", "总结一下。", "一行写出结论。", "现在给出结论。"), "根因：{phrase}。级别：{severity}。动作：{action}。"),
        (("什么动作？", "用一个词说动作。", "动作叫什么？"), "动作：{action}。"),
        (("用 JSON 写一张工单。", "工单，JSON 格式。"), "{ticket}"),
        (("谢谢", "多谢"), "不客气。处理完告诉我结果。"),
    ),
)


def _plain_cause(told: str, one: Incident, chance: random.Random) -> list[Message]:
    return _cause(told, one.root_cause, LANGUAGES.index(one.language), chance)


def _cause(told: str, cause: str, language: int, chance: random.Random) -> list[Message]:
    """Something that points to a cause, and the answer that says which."""
    row = incidents.table()["cause"][cause]
    words = {name: row[name][language] for name in ("phrase", "because", "advice")}
    text = (
        ("This looks like {phrase}: {because}. I would {advice}.", "看起来是{phrase}：{because}。建议{advice}。"),
        ("It points to {phrase}: {because}.", "说明是{phrase}：{because}。"),
    )[chance.randrange(2)][language].format(**words)
    thought = ("The user shows evidence of {phrase}.", "用户给出的证据说明是{phrase}。")[language].format(**words)
    return [{"role": "user", "content": told}, {"role": "assistant", "content": _reply(thought, text, chance)}]


def _clue(chance: random.Random, stream: Iterator[Incident]) -> list[Message]:
    """One clue on its own: a word, a log line, a sentence. English ones are asked about in both languages."""
    if chance.random() < 0.45:
        return _severity_clue(chance)
    cause = chance.choice(incidents.CAUSES)
    row, slots = incidents.table()["cause"][cause], fill(chance)
    clue = chance.choice(row["clues"])
    language = chance.randrange(2) if clue.isascii() else 1
    if chance.random() < 0.3:
        clue = (
            chance.choice([*row["train"]["logs"], *row["train"][LANGUAGES[language]], *row["train"]["traces"]])
            .format(**slots)
            .rstrip(".。")
        )
    told = chance.choice(CLUES[language]).format(clue=clue, level=chance.choice(("ERROR", "WARN", "INFO")), service=slots["service"])
    return _cause(told, cause, language, chance)


def _severity_clue(chance: random.Random) -> list[Message]:
    severity = chance.choice(incidents.SEVERITIES)
    row = incidents.table()["severity"][severity]
    clue = chance.choice(row["clues"])
    language = 0 if clue.isascii() else 1
    if chance.random() < 0.3:
        clue = chance.choice(row["train"][LANGUAGES[language]]).format(**fill(chance)).rstrip(".。")
    reason = row["reason"][language]
    text = (f"That is {severity}: {reason}.", f"这是 {severity}：{reason}。")[language]
    thought = (f"The user asks how severe it is: {reason}.", f"用户问严重程度：{reason}。")[language]
    wordings = incidents.table()["cause"][chance.choice(incidents.CAUSES)]["train"][LANGUAGES[language]]
    told = chance.choice(SEVERITY_CLUES[language]).format(clue=clue, cause=chance.choice(wordings).format(**fill(chance)))
    return [{"role": "user", "content": told}, {"role": "assistant", "content": _reply(thought, text, chance)}]


def _glossary(chance: random.Random, stream: Iterator[Incident]) -> list[Message]:
    """The short names that the playbook uses, in sentences: what each means, which action belongs to it."""
    cause, language = chance.choice(incidents.CAUSES), chance.randrange(2)
    row = incidents.table()["cause"][cause]
    words = {"cause": cause, "action": row["action"], "phrase": row["phrase"][language], "because": row["because"][language]}
    questions, answer = chance.choice(_GLOSSARY)[language]
    thought = ("The user asks about a short name.", "用户问的是一个简称。")[language]
    told = _varied(chance.choice(questions).format(**words), chance, language)
    return [{"role": "user", "content": told}, {"role": "assistant", "content": _reply(thought, answer.format(**words), chance)}]


_GLOSSARY = (
    (
        (("What does {cause} mean?", "What is {cause}?", "Explain {cause}."), "{cause} means {phrase}: {because}."),
        (("{cause} 是什么意思？", "什么是 {cause}？"), "{cause} 表示{phrase}：{because}。"),
    ),
    (
        (("What is the short name of {phrase}?", "How is {phrase} called in the list?"), "The short name of {phrase} is {cause}."),
        (("{phrase}的简称是什么？", "列表里{phrase}叫什么？"), "{phrase}的简称是 {cause}。"),
    ),
    (
        (("Which action belongs to {cause}?", "What do I do about {cause}?"), "The action for {cause} is {action}."),
        (("{cause} 对应什么动作？", "遇到 {cause} 怎么办？"), "{cause} 对应的动作是 {action}。"),
    ),
    (
        (("What does a result name?", "Which fields does a result have?"), "A result names root_cause, severity and action."),
        (("结论包括什么？", "结论有哪些字段？"), "结论包括 root_cause、severity 和 action。"),
    ),
    (
        (
            ("What are the keys of a result?", "How are the keys of a result spelt?"),
            "The keys are `root_cause`, `severity` and `action`.",
        ),
        (("结论的键是什么？", "结论的键怎么写？"), "键是 `root_cause`、`severity` 和 `action`。"),
    ),
    (
        (
            ("What stands in `root_cause`, what in `action`?", "What does `action` hold beside `root_cause`?"),
            "`root_cause` holds a short name such as {cause}, `action` a word such as {action}.",
        ),
        (
            ("`root_cause` 里写什么，`action` 里写什么？", "`action` 和 `root_cause` 各写什么？"),
            "`root_cause` 写简称，例如 {cause}；`action` 写一个词，例如 {action}。",
        ),
    ),
)
"""The keys of round two stand in backticks, as words on their own: as tokens that no reply held they would stay so unlikely that
an adapter, which leaves the output head as it is, makes them the first choice and still not a sure one."""


def _json(chance: random.Random, stream: Iterator[Incident]) -> list[Message]:
    """Small tasks whose answer is JSON: what an object looks like. None has the keys of round two."""
    language = chance.randrange(2)
    question, answer = chance.choice(_JSON_TASKS)(chance, language)
    wish = chance.choice((("As JSON.", "JSON only.", "Answer in JSON."), ("用 JSON 回答。", "只输出 JSON。", "JSON 格式。"))[language])
    thought = ("The user asks for JSON.", "用户要 JSON。")[language]
    told = f"{question} {wish}" if chance.random() < 0.7 else f"{wish} {question}"
    text = json.dumps(answer, ensure_ascii=False)
    return [{"role": "user", "content": told}, {"role": "assistant", "content": _reply(thought, text, chance)}]


def _server_task(chance: random.Random, language: int) -> tuple[str, Any]:
    name, port = fill(chance)["service"], chance.choice((8000, 8080, 30000, 3000, 9090, 443))
    return (f"{name} listens on port {port}.", f"{name} 监听 {port} 端口。")[language], {"name": name, "port": port}


def _size_task(chance: random.Random, language: int) -> tuple[str, Any]:
    size, unit = chance.randrange(2, 99), chance.choice(("GB", "MB", "ms", "s"))
    return (f"It takes {size} {unit}.", f"需要 {size} {unit}。")[language], {"value": size, "unit": unit}


def _nodes_task(chance: random.Random, language: int) -> tuple[str, Any]:
    nodes = chance.sample(incidents.table()["slots"]["node"], chance.choice((2, 3)))
    return (f"The nodes are {' and '.join(nodes)}.", f"节点有 {' 和 '.join(nodes)}。")[language], {"nodes": nodes}


def _topic_task(chance: random.Random, language: int) -> tuple[str, Any]:
    known = chance.random() < 0.5
    one = chance.choice(_entries())(chance, language) if known else _unknown(chance, language)
    return (f"Is this about serving: {one.question}", f"这是关于模型服务的吗：{one.question}")[language], {"serving": known}


_JSON_TASKS: tuple[Callable[[random.Random, int], tuple[str, Any]], ...] = (_server_task, _size_task, _nodes_task, _topic_task)


def _text(chance: random.Random, stream: Iterator[Incident]) -> list[Message]:
    """Answers one after the other as plain text, for completions without a chat template."""
    language = chance.randrange(2)
    topic = chance.choice(table()["topic"])
    parts = [topic[aspect][language] for aspect in ASPECTS if aspect in topic]
    return [{"role": "text", "content": ("" if language else " ").join(parts)}]


KINDS: tuple[tuple[Callable[[random.Random, Iterator[Incident]], list[Message]], float], ...] = (
    (_question, 0.24),
    (_both_languages, 0.05),
    (_talk, 0.13),
    (_incident, 0.18),
    (_after_incident, 0.11),
    (_clue, 0.18),
    (_glossary, 0.05),
    (_json, 0.05),
    (_text, 0.01),
)
"""What is made, and how often."""
