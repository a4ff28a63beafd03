"""For tests: a loopback server that takes adapters and answers in the words of vLLM 0.32.0, and a stand-in for `Server` before it.

Its "model" says which model was asked and repeats the question, so that a test sees where a request went.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from json_handler import JsonHandler
from stand_in import StandIn

from labkit.chat import served
from labkit.chat.served import Served, ServedAdapters
from labkit.engines.engine import Engine
from labkit.serving import hot_adapters

KEY = "sk-secret-of-the-test"


class Handler(JsonHandler):
    server: Any

    def do_GET(self) -> None:
        base = {"id": "tiny", "root": "/models/tiny", "parent": None}
        cards = [{"id": name, "root": folder, "parent": "tiny"} for name, folder in self.server.loaded.items()]
        self.send(200, {"object": "list", "data": [base, *cards]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, body, self.headers))
        if self.headers["Authorization"] != f"Bearer {KEY}":
            self.send(401, {"error": "Unauthorized"})
        elif self.path == "/v1/chat/completions":
            self._chat(body)
        elif not self.server.hot:
            self.send(404, {"detail": "Not Found"})
        elif self.server.refusal:
            self._error(500, self.server.refusal)
        elif self.path.endswith("/unload_lora_adapter"):
            del self.server.loaded[body["lora_name"]]
            self.send(200, "Success")
        else:
            self.server.loaded[body["lora_name"]] = body["lora_path"]
            self.send(200, "Success")

    def _chat(self, body: dict[str, Any]) -> None:
        if self.server.broken:
            return self._error(500, "EngineCore encountered an issue")
        text = f"{body['model']} heard: {body['messages'][-1]['content']}"
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text, "reasoning": "hm"}}
        usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
        reply = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "usage": usage, "choices": [choice]}
        return self.send(200, reply)

    def _error(self, code: int, message: str) -> None:
        self.send(code, {"error": {"message": message, "type": "InternalServerError", "param": None, "code": code}})


class AdapterServer(StandIn):
    """A server with adapters, and what `labkit.Server` can do with them. `http` is the server behind: loaded, seen, hot, refusal, broken."""

    def __init__(self, http: Any, folder: Path) -> None:
        base = str(folder / "base")
        command = ["python", "serve", base, "--enable-lora", "--max-lora-rank", "8", "--max-loras", "3"]
        super().__init__(http.server_port, source=base, device="gpu", command=command, log=folder / "vllm.log", key=KEY)
        self.http = http
        self.log.write_text("")

    def be(self, engine: Engine) -> None:
        self.engine = engine

    def adapters(self) -> ServedAdapters:
        return served.list_adapters(self)

    def load_adapter(self, name: str, folder: Path | str, **options: bool) -> Served:
        return hot_adapters.load(self, name, folder, **options)

    def unload_adapter(self, name: str) -> None:
        hot_adapters.unload(self, name)


@contextmanager
def adapter_server(folder: Path) -> Iterator[AdapterServer]:
    """A `AdapterServer` with the adapter "one" loaded, whose base folder `folder`/base is for the test to make."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state: Any = http
        state.loaded, state.seen, state.hot, state.refusal, state.broken = {"one": "/adapters/one"}, [], True, "", False
        Thread(target=http.serve_forever, daemon=True).start()
        yield AdapterServer(http, folder)
        http.shutdown()
