"""The AIOps task: fair splits, answers that follow from the text, conversations that can be learnt from."""

import json
import string

import pytest

from labkit.common.errors import SettingError
from labkit.evaluation import incidents

SPLITS = ("train", "validation", "test")


def wordings(split: str) -> set[str]:
    """Every sentence and line that a split may use."""
    table = incidents.table()
    found = set(table["noise"][split])
    for row in [*table["cause"].values(), *table["severity"].values()]:
        for lines in row[split].values():
            found |= set(lines)
    return found


def test_the_same_seed_gives_the_same_incidents_and_a_smaller_count_their_beginning() -> None:
    assert incidents.load("train", 40) == incidents.load("train", 64)[:40]
    assert incidents.load("train", 40, seed=1) != incidents.load("train", 40)


def test_no_incident_is_in_two_splits_or_twice_in_one() -> None:
    texts = {split: [one.first_prompt() for one in incidents.load(split, 600)] for split in SPLITS}
    assert all(len(set(listed)) == 600 for listed in texts.values())
    assert not set(texts["train"]) & set(texts["validation"])


def test_no_wording_of_the_test_split_is_in_training() -> None:
    assert not wordings("train") & wordings("test")
    places = {name for line in wordings("test") for _, name, _, _ in string.Formatter().parse(line) if name}
    assert places <= {"service", "node", "pct", "n", "m", "ms", "big"}


@pytest.mark.parametrize("split", SPLITS)
def test_causes_and_languages_come_in_turn(split: str) -> None:
    seen = [(one.root_cause, one.language) for one in incidents.load(split, 64)]
    assert {seen.count(pair) for pair in seen} == {4} and len(set(seen)) == 16


@pytest.mark.parametrize("split", SPLITS)
def test_the_answer_follows_from_the_text(split: str) -> None:
    """The severity is that of the sentence about whom it hits, the cause that of the other; the rest is what the playbook says."""
    table = incidents.table()
    wording = "test" if split == "test" else "train"
    for one in incidents.load(split, 96):
        stems = {
            name: [line.partition("{")[0] or line.rpartition("}")[2] for line in table["severity"][name][wording][one.language]]
            for name in incidents.SEVERITIES
        }
        assert any(stem in one.symptoms for stem in stems[one.severity])
        assert one.severity in table["cause"][one.root_cause]["severities"] and one.action == incidents.ACTIONS[one.root_cause]
        assert 2 <= len(one.logs) <= 3 and "{" not in one.first_prompt()


def test_the_system_prompt_states_every_rule() -> None:
    for language in incidents.LANGUAGES:
        said = incidents.SYSTEM[language]
        assert all(f"{cause} {action}" in said for cause, action in incidents.ACTIONS.items())
        assert all(severity in said for severity in incidents.SEVERITIES)


def test_conversations_end_with_the_right_json_after_reasoning() -> None:
    pairs = zip(incidents.load("train", 32), incidents.conversations("train", 32), strict=True)
    for one, messages in ((one, messages) for one, messages in pairs if len(messages) == 5):
        assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]
        thought, _, answer = messages[-1]["content"].partition("</think>\n\n")
        assert thought.startswith("<think>\n") and json.loads(answer) == one.expected
        assert "<think>" not in messages[2]["content"] and one.severity in messages[2]["content"]


def test_every_third_conversation_ends_with_prose_in_every_cause_and_language() -> None:
    pairs = list(zip(incidents.load("train", 48), incidents.conversations("train", 48), strict=True))
    first_rounds = [(one, messages) for one, messages in pairs if len(messages) == 3]
    assert [len(messages) for _, messages in pairs] == [5, 5, 3] * 16
    assert len({(one.root_cause, one.language) for one, _ in first_rounds}) == 16
    for one, messages in first_rounds:
        assert messages == [*one.messages("")[:2], {"role": "assistant", "content": one.first_reply()}]
        assert one.first_reply().startswith("<think>\n") and "{" not in one.first_reply()


def test_what_cannot_be_had_is_refused() -> None:
    with pytest.raises(SettingError, match="validation"):
        incidents.load("dev")
    with pytest.raises(SettingError, match="count"):
        incidents.load("test", 0)
