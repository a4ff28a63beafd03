"""Clients and curl lines against a loopback server that records what it is sent and answers like an OpenAI server."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from json_handler import JsonHandler
from stand_in import StandIn

from labkit.chat.dialogue import Conversation, client, curl, stream
from labkit.chat.reasoning import reasoning_and_answer

KEY = "sk-secret-of-the-test"
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


class OpenAILike(JsonHandler):
    """Answers what its server's `reply` says: a message, or a list of deltas when a stream is asked for."""

    server: Any

    def do_GET(self) -> None:
        self.send(200, {"path": self.path, "key": self.headers.get("Authorization")})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append(body)
        if self.headers["Authorization"] != f"Bearer {KEY}":
            self.send(401, {"error": "Unauthorized"})
        elif body.get("stream"):
            self._stream()
        else:
            finish = self.server.finish
            self.send(
                200,
                {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "usage": USAGE}
                | {"choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", **self.server.reply}}]},
            )

    def _stream(self) -> None:
        head = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
        choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in self.server.deltas]
        chunks = [{"choices": [choice]} for choice in choices]
        chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": USAGE}]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for chunk in chunks:
            self.wfile.write(f"data: {json.dumps(head | chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Any]:
    key_file = tmp_path / "a folder's name" / "vllm.key"
    key_file.parent.mkdir()
    key_file.write_text(KEY)
    with ThreadingHTTPServer(("127.0.0.1", 0), OpenAILike) as http:
        settings: Any = http
        settings.seen, settings.reply, settings.deltas, settings.finish = [], {"content": "yes"}, [], "stop"
        Thread(target=http.serve_forever, daemon=True).start()
        stand_in: Any = StandIn(http.server_port, key=KEY, key_file=key_file, model="m")
        stand_in.http = http
        yield stand_in
        http.shutdown()


@pytest.fixture(autouse=True)
def proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `source /etc/network_turbo`: nothing here may go that way."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


def run(line: str) -> str:
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout


needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")


@needs_curl
@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "What's this? It's 'it'.",
        '显存 分成 小块，"引号"',
        "$HOME `id` $(id) !! \\n \\ \n new line",
        "'; rm -rf nothing; '",
        "@file <a> & | # ~ *",
    ],
)
def test_a_pasted_line_sends_exactly_the_body(server: Any, text: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "stop": [text], "temperature": 0.5}
    answer = json.loads(run(curl(server, "/v1/chat/completions", body)))
    assert server.http.seen == [body]
    assert answer["choices"][0]["message"]["content"] == "yes"


@needs_curl
def test_a_get_line_brings_the_key_without_holding_it(server: Any) -> None:
    line = curl(server, "/v1/models?limit=1&x=a'b")
    assert json.loads(run(line)) == {"path": "/v1/models?limit=1&x=a'b", "key": f"Bearer {KEY}"}
    assert KEY not in line and KEY not in repr(line)


@needs_curl
def test_a_streaming_line_does_not_wait(server: Any) -> None:
    server.http.deltas = [{"content": "one"}, {"content": "two"}]
    line = curl(server, "/v1/chat/completions", {"model": "m", "messages": [], "stream": True})
    assert " -N " in line and " -N " not in curl(server, "/health")
    assert run(line).rstrip().endswith("data: [DONE]")


@needs_curl
def test_lines_can_be_piped_and_extended(server: Any) -> None:
    assert run(curl(server, "/health") + " -o /dev/null -w '%{http_code}' | tr 2 x") == "x00"


def test_a_line_shows_itself_as_it_is(server: Any) -> None:
    assert repr(curl(server, "/health")) == str(curl(server, "/health"))


def test_the_client_carries_the_key_and_no_proxy(server: Any) -> None:
    reply = client(server).chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}], extra_body={"top_k": 20})
    assert reply.choices[0].message.content == "yes"
    assert server.http.seen[0]["top_k"] == 20


def test_a_wrong_key_is_the_clients_own_error(server: Any) -> None:
    with pytest.raises(openai.AuthenticationError):
        client(server).with_options(api_key="sk-wrong").chat.completions.create(model="m", messages=[])


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("<think>\nwhy\n</think>\n\nwhat", ("why", "what")),
        ("why</think>what", ("why", "what")),
        ("just this", ("", "just this")),
        ("<think> cut off", ("cut off", "")),
        ("", ("", "")),
        ("a</think>b</think>c", ("a", "b</think>c")),
        ({"content": "\n\nwhat", "reasoning": "why\n"}, ("why", "what")),
        ({"content": "what", "reasoning_content": "why"}, ("why", "what")),
        ({"content": "<think>why</think>what", "reasoning": None}, ("why", "what")),
        ({"content": None, "reasoning": "cut off"}, ("cut off", "")),
        (SimpleNamespace(content="what", reasoning="why"), ("why", "what")),
        (SimpleNamespace(content="what"), ("", "what")),
    ],
)
def test_reasoning_and_answer(message: Any, expected: tuple[str, str]) -> None:
    assert reasoning_and_answer(message) == expected


def test_a_real_message_object_is_parted(server: Any) -> None:
    server.http.reply = {"content": "what", "reasoning": "why"}
    message = client(server).chat.completions.create(model="m", messages=[]).choices[0].message
    assert reasoning_and_answer(message) == ("why", "what")


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_a_stream_is_parted_timed_and_printed(server: Any, field: str, capsys: pytest.CaptureFixture[str]) -> None:
    server.http.deltas = [
        {"role": "assistant", "content": ""},
        {field: "I "},
        {field: "think"},
        {"content": "\n\nSo"},
        {"content": " it is."},
    ]
    found = stream(server, "why?", max_tokens=9)
    assert (found.reasoning, found.answer.strip(), found.tokens, found.chunks, found.finish) == ("I think", "So it is.", 5, 4, "stop")
    assert found.ttft is not None and found.first_answer is not None and 0 < found.ttft <= found.first_answer <= found.seconds
    assert capsys.readouterr().out == "[reasoning]\nI think\n[answer]\nSo it is.\n"
    assert server.http.seen[0]["messages"] == [{"role": "user", "content": "why?"}] and server.http.seen[0]["max_tokens"] == 9


def test_a_stream_without_a_parser_is_parted_at_the_tag(server: Any) -> None:
    server.http.deltas = [{"content": "why</th"}, {"content": "ink>what"}]
    found = stream(server, [{"role": "user", "content": "?"}])
    assert (found.reasoning, found.answer) == ("why", "what")


def test_a_stream_without_text_says_so(server: Any) -> None:
    found = stream(server, "?")
    assert found.ttft is None and "no text came" in str(found) and found.finish == "stop"


def test_a_conversation_sends_its_history_without_reasoning(server: Any) -> None:
    server.http.reply = {"content": "what", "reasoning": "why"}
    talk = Conversation(server, "be short", {"max_tokens": 50})
    first = talk.ask("one")
    talk.ask("two", temperature=0)
    assert (first.reasoning, first.answer, first.prompt_tokens) == ("why", "what", 7)
    assert [turn["role"] for turn in talk.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert server.http.seen[1]["messages"] == talk.messages[:4]
    assert server.http.seen[1]["max_tokens"] == 50 and server.http.seen[1]["temperature"] == 0
    assert "why" not in json.dumps(talk.messages)


def test_a_question_that_failed_is_not_in_the_history(server: Any) -> None:
    server.key = "sk-wrong"
    talk = Conversation(server)
    with pytest.raises(openai.AuthenticationError):
        talk.ask("one")
    assert talk.messages == []


def test_an_answer_that_was_cut_off_says_so(server: Any) -> None:
    server.http.reply, server.http.finish = {"content": None, "reasoning": "still thinking"}, "length"
    reply = Conversation(server).ask("one")
    assert reply.answer == "" and reply.finish == "length" and "length" in repr(reply)
