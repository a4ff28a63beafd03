"""Talking to a server: an OpenAI client, the same request as a curl line, streaming, reasoning and answer apart, conversations.

These helpers show what happens instead of hiding it: a request body is the dictionary that the documentation describes, and
whatever they do can be done with `client(server)` alone.
Covers: OpenAI-compatible servers of this machine. Does not cover: tools, images, retries of a whole conversation.
Used by notebooks 03 to 06.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..common.files import PRIVATE, write_text
from .reasoning import REASONING_FIELDS, field_of, part, reasoning_and_answer

if TYPE_CHECKING:
    import openai

    from ..engines.endpoint import Endpoint


Message = Mapping[str, Any]


def client(server: Endpoint, **options: Any) -> openai.OpenAI:
    """An `openai.OpenAI` for `server`: its address, its key, and no proxy on the way (it is on this machine).

    `options` go to `openai.OpenAI` (timeout in seconds, max_retries).
    """
    import openai

    return openai.OpenAI(base_url=server.api, api_key=server.key, http_client=openai.DefaultHttpxClient(trust_env=False), **options)


class Curl(str):
    """A line for bash that shows itself as it is, so that the last value of a cell can be copied."""

    def __repr__(self) -> str:
        return str(self)


def curl(server: Endpoint, path: str, body: Mapping[str, Any] | None = None) -> Curl:
    """The request as a line that works when pasted in bash: GET `path`, or POST with `body` as JSON.

    `path` is below the server's address ("/health", "/v1/chat/completions"). curl reads the header with the key from a file that is
    written here, beside the key's and as private: on its command line every user of the machine could read it (`ps`). A body with
    stream=True gets -N, so that curl prints chunks as they come.
    """
    header = write_text(server.key_file.with_suffix(".header"), f"Authorization: Bearer {server.key}\n", mode=PRIVATE)
    argv = ["curl", "-sS", *(["-N"] if body and body.get("stream") else []), "--noproxy", shlex.quote("*"), shlex.quote(server.url + path)]
    lines = [" ".join(argv), f"-H {shlex.quote(f'@{header}')}"]
    if body is not None:
        text = json.dumps(body, ensure_ascii=False).replace("'", "\\u0027")  # JSON's own spelling: no shell has to unquote it
        lines += [f"-H {shlex.quote('Content-Type: application/json')}", f"-d '{text}'"]
    return Curl(" \\\n  ".join(lines))


@dataclass
class Streamed:
    """A reply that came in pieces. Times are seconds from sending; None for what did not happen.

    `ttft` is the first token of any kind, `first_answer` the first one after the reasoning. `tokens` is the server's own count
    of generated tokens, reasoning included. `finish` is "stop" or "length".
    """

    reasoning: str = ""
    answer: str = ""
    ttft: float | None = None
    first_answer: float | None = None
    seconds: float = 0.0
    tokens: int | None = None
    chunks: int = 0
    finish: str = ""

    @property
    def tpot(self) -> float | None:
        """Seconds per output token after the first."""
        return (self.seconds - self.ttft) / (self.tokens - 1) if self.ttft is not None and self.tokens and self.tokens > 1 else None

    def __str__(self) -> str:
        parts = [f"{self.tokens if self.tokens is not None else '?'} tokens in {self.seconds:.2f} s"]
        parts += [f"TTFT {self.ttft * 1000:.0f} ms"] if self.ttft is not None else ["no text came"]
        parts += [f"answer began after {self.first_answer * 1000:.0f} ms"] if self.first_answer is not None else []
        parts += [f"TPOT {self.tpot * 1000:.1f} ms"] if self.tpot is not None else []
        return ", ".join([*parts, f"ended by {self.finish or 'the server'}"])

    __repr__ = __str__


def stream(server: Endpoint, messages: str | Iterable[Message], **options: Any) -> Streamed:
    """Ask and print reasoning and answer as they arrive; returns both with the times.

    `messages` is a question or a list of messages; `options` go into the request (max_tokens, temperature,
    extra_body={"top_k": 20}). Raises the client's own `openai.APIError` children.
    """
    listed = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    reply, began, shown = Streamed(), time.monotonic(), ""
    request = {"model": server.model, "messages": listed, "stream": True, "stream_options": {"include_usage": True}, **options}
    with client(server) as connection, connection.chat.completions.create(**request) as chunks:
        for chunk in chunks:
            reply.seconds = time.monotonic() - began
            if chunk.usage:
                reply.tokens = chunk.usage.completion_tokens
            for choice in chunk.choices[:1]:
                shown = _take(reply, choice, shown)
    print(flush=True)
    if not reply.reasoning:
        reply.reasoning, reply.answer = part(reply.answer)
    return reply


def _take(reply: Streamed, choice: Any, shown: str) -> str:
    """Add one chunk to `reply`, print it under its heading, and return the heading that stands now."""
    reasoning = next((piece for name in REASONING_FIELDS if (piece := field_of(choice.delta, name))), "")
    answer = choice.delta.content or ""
    reply.finish = choice.finish_reason or reply.finish
    for heading, piece in (("reasoning", reasoning), ("answer", answer)):
        if not piece:
            continue
        reply.chunks += 1
        reply.ttft = reply.seconds if reply.ttft is None else reply.ttft
        if heading == "answer" and reply.first_answer is None:
            reply.first_answer = reply.seconds
        if shown != heading:
            print(f"{chr(10) if shown else ''}[{heading}]", flush=True)
            piece_shown, shown = piece.lstrip(), heading
        else:
            piece_shown = piece
        print(piece_shown, end="", flush=True)
    reply.reasoning += reasoning
    reply.answer += answer
    return shown


@dataclass
class Reply:
    """One turn of a conversation. Tokens are the server's own count."""

    reasoning: str
    answer: str
    prompt_tokens: int
    output_tokens: int
    finish: str

    def __str__(self) -> str:
        return self.answer

    def __repr__(self) -> str:
        return f"{self.answer}\n({self.prompt_tokens} prompt tokens, {self.output_tokens} generated, ended by {self.finish})"


@dataclass
class Conversation:
    """Several turns. `messages` is the history that is sent each time: questions and answers, without old reasoning.

    R1's makers want it so: reasoning of earlier turns costs context and confuses the next one. The server keeps nothing
    between requests (its prefix cache only saves computing the same beginning again), so the prompt grows with every turn.
    """

    server: Endpoint
    system: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.system and not self.messages:
            self.messages.append({"role": "system", "content": self.system})

    def ask(self, question: str, **options: Any) -> Reply:
        """Send the history and `question`; both question and answer join the history when the answer is there.

        `options` are added to this conversation's. An answer that max_tokens cut off joins as far as it came (`Reply.finish` is
        then "length"). Raises the client's `openai.APIError` children; the history is then as before.
        """
        turn = {"role": "user", "content": question}
        with client(self.server) as connection:
            request: Any = {"model": self.server.model, "messages": [*self.messages, turn], **self.options, **options}
            reply = connection.chat.completions.create(**request)
        choice = reply.choices[0]
        reasoning, answer = reasoning_and_answer(choice.message)
        self.messages += [turn, {"role": "assistant", "content": answer}]
        used = reply.usage
        return Reply(reasoning, answer, used.prompt_tokens, used.completion_tokens, choice.finish_reason)
