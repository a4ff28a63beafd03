"""Offline replies and what differs from another score: requests, refusals, the place where texts part. No torch here."""

from pathlib import Path
from typing import Any

import pytest

from labkit.common.errors import LabError, SettingError
from labkit.evaluation import incidents, offline, scores, windows
from labkit.models import course_model
from labkit.models.profiles import profile
from labkit.workers import launch

ASKED = incidents.load("validation", 3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return course_model.make(profile("tiny"), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Nothing is started; what would be is noted and answered rightly."""
    noted: list[dict[str, Any]] = []

    def run(path: Path, request: dict[str, Any], **options: Any) -> dict[str, Any]:
        noted.append(request)
        return {"replies": [[[one.first_reply(), one.second_reply(), 0.5, 0] for one in ASKED] for _ in request["task"]["temperatures"]]}

    monkeypatch.setattr(launch, "run", run)
    return noted


def test_a_dialogue_is_what_a_server_would_be_sent(model: Path, requests: list[dict[str, Any]]) -> None:
    answers = offline.replies(model, ASKED)
    assert answers[0] == scores.OfflineReply(ASKED[0].first_reply(), ASKED[0].second_reply(), 0.5)
    for incident, dialogue in zip(ASKED, requests[0]["task"]["dialogues"], strict=True):
        sent = [*dialogue["messages"], {"role": "assistant", "content": "so"}, {"role": "user", "content": dialogue["second"]}]
        assert sent == incident.messages("so")
    assert requests[0]["task"]["max_new_tokens"] == windows.reply_tokens(model)
    assert (requests[0]["adapter"], requests[0]["task"]["temperatures"]) == ("", (0.0,))


def test_the_score_is_that_of_the_same_texts(model: Path, requests: list[dict[str, Any]]) -> None:
    score = offline.score(model, ASKED, temperature=0.7, max_new_tokens=9)
    assert (score.hit_rate, score.compliance, score.label) == (1, 1, "tiny, offline")
    assert (requests[0]["task"]["temperatures"], requests[0]["task"]["max_new_tokens"]) == ((0.7,), 9)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"folder": Path("/nowhere/at/all")}, "is not there"),
        ({"adapter": Path("/nowhere/at/all")}, "adapter_config.json"),
        ({"incidents": ()}, "no incidents"),
        ({"temperature": -0.1}, "not possible"),
        ({"max_new_tokens": 0}, "not possible"),
        ({"batch": 0}, "not possible"),
    ],
)
def test_what_cannot_be_played_is_refused_before_anything_starts(
    model: Path, requests: list[dict[str, Any]], change: dict[str, Any], said: str
) -> None:
    arguments: dict[str, Any] = {"folder": model, "incidents": ASKED} | change
    with pytest.raises(LabError, match=said):
        offline.replies(**arguments)
    assert not requests


def score(label: str, *changes: tuple[int, int, str]) -> scores.Score:
    """All right, but for (incident, round, text)."""
    texts = [[one.first_reply(), one.second_reply(), 0.0] for one in ASKED]
    for number, part, text in changes:
        texts[number][part] = text
    return scores.from_replies(label, ASKED, [scores.OfflineReply(str(first), str(second)) for first, second, _ in texts])


def test_equal_scores_have_no_differences() -> None:
    found = offline.differences(score("offline"), score("online"))
    assert not found and found.total == 3 and str(found) == "0 of 3 incidents came out in other words, 0 with another verdict"


def test_the_first_character_that_differs_is_shown_with_what_is_around_it() -> None:
    right = ASKED[1].first_reply()
    answer = right.partition("</think>")[2].strip()
    wrong = right[: -len(answer)] + answer[:30] + "#" + answer[31:]
    (one,) = offline.differences(score("offline"), score("online", (1, 0, wrong)))
    assert (one.incident, one.where, one.at) == (ASKED[1], "round one, answer", 30)
    assert one.first.startswith("…" + answer[6:30]) and one.second.startswith("…" + answer[6:30] + "#")
    assert one.verdicts == ("hit", "hit") and not one.decisive


def test_a_text_that_ends_early_differs_at_its_end() -> None:
    (one,) = offline.differences(score("a"), score("b", (0, 1, "<think>\nIt")))
    assert one.where == "round two, reasoning" and one.second in ("It", "(nothing)")
    assert one.decisive and one.verdicts == ("hit", "no answer: the reasoning never ended")


def test_a_request_that_failed_differs_by_its_verdict() -> None:
    whole = score("offline", (2, 1, "x"))
    failed = scores.Score(
        "online",
        (
            *whole.cases[:2],
            scores.Case(ASKED[2], whole.cases[2].first, whole.cases[2].second, scores.Judgement(False, False, why="request failed")),
        ),
    )
    (one,) = offline.differences(whole, failed)
    assert one.where == "the verdict alone" and one.decisive


def test_white_space_at_the_ends_does_not_count() -> None:
    assert not offline.differences(score("a"), score("b", (0, 0, ASKED[0].first_reply() + "\n ")))


def test_the_table_names_both_scores_and_escapes_what_a_model_wrote() -> None:
    marked = ASKED[0].second_reply().partition("</think>")[0] + "</think>\n\n<b>no</b>"
    found = offline.differences(score("offline"), score("online", (0, 1, marked), (2, 1, '{"root_cause": "disk_full"}')))
    assert len(found) == found.decisive == 2
    assert found.rows()[0] == ["incident", "first differs in", "offline", "online", "verdicts"]
    assert "hit / prose, no JSON" in str(found)
    assert "<b>no" not in found._repr_html_() and "&lt;b&gt;no" in found._repr_html_()


def test_scores_of_other_incidents_are_refused() -> None:
    other = scores.from_replies("other", ASKED[:1], [scores.OfflineReply("", "")])
    with pytest.raises(SettingError, match="not of the same incidents"):
        offline.differences(score("offline"), other)
