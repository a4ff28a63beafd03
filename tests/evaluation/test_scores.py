"""Judging replies, and scoring against a loopback server that answers like a model: right, wrong, fenced, slow or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import drawn
import pytest
from adapter_server import adapter_server
from json_handler import JsonHandler
from stand_in import StandIn

from labkit.common.errors import AdapterError, NotRunning, SettingError
from labkit.engines import ENGINES
from labkit.evaluation import incidents, online, scores, windows
from labkit.evaluation.scores import Judgement

KEY = "sk-secret-of-the-test"
ONE = incidents.load("test", 1)[0]
RIGHT = json.dumps(ONE.expected)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("", "no answer"),
        ("<think>\nthinking and", "the reasoning never ended"),
        ("The disk is full.", "prose"),
        (f"```json\n{RIGHT}\n```", "code fence"),
        (f"Here: {RIGHT}", "text before"),
        (f"{RIGHT} Done.", "not one JSON object"),
        (f"{RIGHT}{RIGHT}", "not one JSON object"),
        (f"[{RIGHT}]", "not the schema"),
        (RIGHT[:-1], "not one JSON object"),
        ('{"cause": "disk_full"}', "not the schema"),
        (RIGHT[:-1] + ', "note": "x"}', "note"),
        (RIGHT[:-1] + ', "action": "clean"}', "twice"),
        (RIGHT.replace(f'"{ONE.severity}"', '"P4"'), "severity"),
        (RIGHT.replace(f'"{ONE.severity}"', "2"), "severity"),
    ],
)
def test_what_is_not_exactly_the_object_is_not_compliant(reply: str, why: str) -> None:
    found = scores.judge(ONE, reply)
    assert not found.compliant and not found.hit and why in found.why


@pytest.mark.parametrize(
    "reply", [RIGHT, f"<think>\nso\n</think>\n\n{RIGHT}\n", {"role": "assistant", "content": RIGHT, "reasoning": "so"}, {"content": RIGHT}]
)
def test_the_right_object_is_a_hit_however_the_reasoning_comes(reply: Any) -> None:
    assert scores.judge(ONE, reply) == Judgement(True, True, True, True, "")


def test_each_key_counts_for_itself() -> None:
    other = next(cause for cause in incidents.CAUSES if cause != ONE.root_cause)
    found = scores.judge(ONE, json.dumps({**ONE.expected, "root_cause": other}))
    assert found.compliant and not found.hit and found.severity and found.action and other in found.why


def test_the_schema_is_one_that_jsonschema_takes_and_every_expected_object_fits_it() -> None:
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(incidents.SCHEMA)
    for one in incidents.load("train", 64):
        Draft202012Validator(incidents.SCHEMA).validate(one.expected)


def played(wrong: int) -> scores.Score:
    """64 incidents offline, the first `wrong` of them answered in prose."""
    asked = incidents.load("test", 64)
    replies = [
        scores.OfflineReply(one.first_reply(), one.first_reply() if number < wrong else one.second_reply(), 0.5)
        for number, one in enumerate(asked)
    ]
    return scores.from_replies(f"{wrong} wrong", asked, replies)


def test_a_reply_from_elsewhere_that_was_cut_off_is_said_so() -> None:
    cut, whole = scores.OfflineReply("", "<think>\nmore and", limit=64), scores.OfflineReply("", RIGHT, limit=64)
    assert scores.from_replies("cut", [ONE, ONE], [cut, whole]).reasons() == {"cut off at 64 tokens": 1}


def test_rates_and_classes_are_counted() -> None:
    score = played(8)
    assert (score.hit_rate, score.compliance, score.severity_rate, score.action_rate) == (0.875, 0.875, 0.875, 0.875)
    assert {(row.root_cause, row.incidents, row.hits) for row in score.by_class()} == {(cause, 8, 7) for cause in incidents.CAUSES}
    assert score.reasons() == {"prose, no JSON": 8} and len(score.failures()) == 8 and score.latency is None


def test_a_table_shows_rates_classes_and_a_picture() -> None:
    shown = scores.table(played(64), played(0))
    assert "64 wrong" in str(shown) and "100.0%" in str(shown) and "8 of 8" in str(shown) and "64 incidents" in str(shown)
    assert shown._repr_html_().count("<table>") == 2


def test_rates_and_classes_are_bars_of_each_model() -> None:
    shown = scores.table(played(16), played(0))
    picture = shown.figure()
    rates, classes = drawn.panels(picture)
    assert [[bar.get_height() for bar in bars] for bars in rates.containers] == [[75] * 4, [100] * 4]
    assert [[bar.get_height() for bar in bars] for bars in classes.containers] == [[75] * 8, [100] * 8]
    assert [label.get_text() for label in rates.get_xticklabels()] == ["hit rate", "JSON compliance", "severity", "action"]
    assert [label.get_text() for label in classes.get_xticklabels()] == [cause.replace("_", "\n") for cause in incidents.CAUSES]
    assert drawn.legend(rates) == ["16 wrong", "0 wrong"] and drawn.title(rates) == "% of 64 incidents"
    assert drawn.title(classes) == "hit rate for each root cause, %" and "16 wrong: 75.0% hits" in picture.words


def test_only_scores_of_the_same_incidents_are_compared() -> None:
    asked = incidents.load("validation", 2)
    other = scores.from_replies("other", asked, [scores.OfflineReply("", "")] * 2)
    with pytest.raises(SettingError, match="same incidents"):
        scores.table(played(0), other)
    with pytest.raises(SettingError, match="1 replies for 2") as caught:
        scores.from_replies("few", asked, [scores.OfflineReply("", "")])
    assert scores.OfflineReply.__name__ in caught.value.fix


def test_the_seconds_are_what_numpy_says() -> None:
    cases = [scores.Case(ONE, online.Parted("", ""), online.Parted("", ""), Judgement(True, True), n / 100, n / 50) for n in range(101)]
    score = scores.Score("x", tuple(cases))
    assert score.latency == pytest.approx((0.5, 0.95, 0.99)) and score.whole_latency == pytest.approx((1.0, 1.9, 1.98))


class Model(JsonHandler):
    """Answers round one with prose and round two as `server.second` says for the incident asked about."""

    server: Any

    def do_GET(self) -> None:
        self.send(self.server.status, {"object": "list", "data": self.server.cards})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append(body)
        rounds = len(body["messages"]) // 2
        text = "<think>\nlook\n</think>\n\nIt is broken." if rounds == 1 else self.server.second(body)
        if text is None:
            self.send(500, {"error": {"message": "engine died"}})
            return
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": self.server.finish}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        self.send(200, {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice], "usage": usage})


@pytest.fixture
def server() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Model) as http:
        host: Any = http
        host.seen, host.finish, host.second, host.status = [], "stop", right, 200
        host.cards = [{"id": name, "object": "model", "max_model_len": 1024} for name in ("tiny", "tuned")]
        Thread(target=http.serve_forever, daemon=True).start()
        stand_in: Any = StandIn(http.server_port, key=KEY)
        stand_in.http = http
        yield stand_in
        http.shutdown()


def right(body: dict[str, Any]) -> str:
    asked = next(one for one in incidents.load("test", 32) if one.first_prompt() == body["messages"][1]["content"])
    return asked.second_reply()


def test_both_rounds_are_played_and_the_order_is_kept(server: Any) -> None:
    asked = incidents.load("test", 12)
    score = online.score(server, asked, model="tuned", concurrency=5)
    assert [case.incident for case in score.cases] == list(asked) and score.hit_rate == score.compliance == 1
    assert score.latency and score.whole_latency and score.whole_latency.mean > score.latency.mean > 0
    second = next(body for body in server.http.seen if len(body["messages"]) == 4)
    assert second["model"] == "tuned" and second["max_tokens"] == 256 and second["temperature"] == 0
    assert second["messages"][2]["content"] == "It is broken."  # without its reasoning


def test_a_failed_request_and_a_cut_off_reply_are_failures_with_a_reason(server: Any) -> None:
    server.http.second = lambda body: None
    dead = online.score(server, incidents.load("test", 2))
    assert dead.compliance == 0 and all("engine died" in why for why in dead.reasons()) and dead.latency is None
    server.http.second, server.http.finish = (lambda body: "<think>\nmore"), "length"
    cut = online.score(server, incidents.load("test", 2), max_tokens=9)
    assert cut.reasons() == {"cut off at 9 tokens": 2}


def test_bad_input_is_refused_before_anything_is_asked(server: Any) -> None:
    with pytest.raises(SettingError, match="serves no model 'nobody'"):
        online.score(server, incidents.load("test", 1), model="nobody")
    for wrong in ({"incidents": []}, {"concurrency": 0}, {"temperature": -1.0}, {"max_tokens": 0}):
        with pytest.raises(SettingError, match="not possible"):
            online.score(server, **{"incidents": incidents.load("test", 1), **wrong})
    assert not server.http.seen


@pytest.mark.parametrize("wanted", ["one", "tiny:one"])
def test_an_adapter_of_sglang_is_asked_for_in_its_own_words(tmp_path: Path, wanted: str) -> None:
    with adapter_server(tmp_path) as server:
        server.be(ENGINES["sglang"])
        assert online.score(server, incidents.load("test", 1), model=wanted).label == wanted
        assert {body["model"] for path, body, _ in server.http.seen if path == "/v1/chat/completions"} == {"tiny:one"}


@pytest.mark.parametrize("ask", [lambda: online.score(StandIn(), incidents.load("test", 1)), lambda: windows.reply_tokens(StandIn())])
def test_a_server_that_is_gone_is_said_so(ask: Any) -> None:
    with pytest.raises(NotRunning, match="127.0.0.1:9"):
        ask()


def test_the_window_is_the_models_own_or_that_of_what_the_adapter_changes(server: Any) -> None:
    server.http.cards = [{"id": "tiny", "max_model_len": 8192}, {"id": "long", "max_model_len": 16384}, {"id": "one", "parent": "tiny"}]
    assert [windows.served_window(server, name) for name in ("tiny", "long", "one")] == [8192, 16384, 8192]
    assert windows.reply_tokens(server) == 2048
    server.http.cards = [{"id": "tiny"}]
    assert windows.served_window(server, "tiny") == windows.SHORT_WINDOW


def test_a_server_that_does_not_say_what_it_serves_is_named(server: Any) -> None:
    server.http.status = 401
    with pytest.raises(AdapterError, match="vLLM does not say what it serves"):
        windows.served_window(server, "tiny")


@pytest.mark.parametrize(("window", "tokens"), [(1024, 256), (512, 128), (4096, 256), (8192, 2048), (32768, 4096), (131072, 4096)])
def test_a_reply_gets_room_by_the_window(tmp_path: Path, window: int, tokens: int) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": window}))
    assert windows.reply_tokens(tmp_path) == tokens


def test_a_folder_without_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="config.json"):
        windows.reply_tokens(tmp_path)
