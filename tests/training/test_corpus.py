"""The course model's text: reproducible, in both languages, written as the template writes it, and without the adapter's job."""

import hashlib
import json
from collections import Counter
from itertools import islice

import pytest

from labkit.evaluation import incidents
from labkit.models.course_model import CHAT_TEMPLATE
from labkit.training import corpus, questions, wordings


@pytest.fixture(scope="module")
def made() -> list[list[dict[str, str]]]:
    return list(corpus.conversations(4000))


def test_the_same_seed_gives_the_same_text(made: list[list[dict[str, str]]]) -> None:
    assert list(corpus.conversations(300)) == made[:300]
    assert list(corpus.conversations(300, seed=1)) != made[:300]


def test_it_is_the_text_that_the_weights_came_from(made: list[list[dict[str, str]]]) -> None:
    """The integration test makes the tokenizer again, from more of it; this one sees a changed word or another order of choices."""
    digest = hashlib.sha256(json.dumps(made, ensure_ascii=False).encode()).hexdigest()
    assert digest == "4be881985d252d5f7a240c6e9e27ff6176a3b892680ce3bb4e7687355fcb255b"


def test_every_reply_reasons_first(made: list[list[dict[str, str]]]) -> None:
    replies = [messages[-1]["content"] for messages in made if len(messages) > 1]
    assert all(reply.startswith("<think>\n") and reply.partition("</think>\n\n")[2] for reply in replies)
    assert 0 < sum(reply.startswith(wordings.NO_THOUGHT) for reply in replies) < 0.1 * len(replies)


def test_history_holds_no_reasoning_and_roles_take_turns(made: list[list[dict[str, str]]]) -> None:
    for messages in made:
        roles = [one["role"] for one in messages if one["role"] != "system"]
        assert roles in (["text"], ["user", "assistant"] * (len(roles) // 2))
        assert not any("<think>" in one["content"] for one in messages[:-1])


def test_no_reply_is_the_json_of_round_two(made: list[list[dict[str, str]]]) -> None:
    assert not any('"root_cause"' in one["content"] or '"severity"' in one["content"] for messages in made for one in messages)


def test_no_sentence_or_log_line_of_the_test_split_is_taught(made: list[list[dict[str, str]]]) -> None:
    """Clues are taught on their own; an incident of the test split never is."""
    texts = {one["content"] for messages in made for one in messages}
    assert not texts & {one.first_prompt() for one in incidents.load("test", 500)}
    whole = "\n".join(texts)
    for row in [*incidents.table()["cause"].values(), *incidents.table()["severity"].values()]:
        assert not any(line in whole for lines in row["test"].values() for line in lines if "{" not in line)


def test_every_question_of_the_table_is_asked() -> None:
    table, answers = (
        wordings.table(),
        Counter(messages[-1]["content"].rpartition("</think>\n\n")[2] for messages in corpus.conversations(30000)),
    )
    wanted = [topic[aspect][language] for topic in table["topic"] for aspect in questions.ASPECTS if aspect in topic for language in (0, 1)]
    wanted += [fact["say"][language] for fact in table["fact"] for language in (0, 1)]
    assert len(wanted) == 316 and min(answers[text] for text in wanted) >= 2


def test_render_writes_what_the_chat_template_writes(made: list[list[dict[str, str]]]) -> None:
    from jinja2 import Template

    template = Template(CHAT_TEMPLATE)
    for messages in islice((one for one in made if len(one) > 1), 200):
        prompt = template.render(messages=messages[:-1], add_generation_prompt=True)
        pieces = corpus.render(messages)
        assert "".join(piece.text for piece in pieces) == template.render(messages=messages)
        learnt = "".join(piece.text for piece in pieces if piece.weight == 1)
        assert learnt == messages[-1]["content"].removeprefix(wordings.NO_THOUGHT) + "<|im_end|>"
        assert "".join(piece.text for piece in pieces[:-2]).removesuffix(wordings.NO_THOUGHT) == prompt


def test_json_tasks_are_answered_with_json(made: list[list[dict[str, str]]]) -> None:
    tasks = [messages for messages in made if len(messages) == 2 and "JSON" in messages[0]["content"]]
    assert len(tasks) > 50 and all(json.loads(messages[-1]["content"].rpartition("</think>\n\n")[2]) for messages in tasks)
