"""A stand-in for an engine in unit tests: a real process with a real port, stages in its log, and ways to fail.

python fake_engine.py PORT [--fail LINE CODE] [--slow SECONDS] [--no-token] [--key KEY_VARIABLE]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

parser = argparse.ArgumentParser()
parser.add_argument("port", type=int)
parser.add_argument("--fail", nargs=2, metavar=("LINE", "CODE"))
parser.add_argument("--slow", type=float, default=0.0)
parser.add_argument("--no-token", action="store_true")
parser.add_argument("--deaf", action="store_true", help="SIGTERM has no effect")
chosen = parser.parse_args()
if chosen.deaf:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(200, {"status": "ok"})

    def do_POST(self) -> None:
        if self.headers["Authorization"] != f"Bearer {os.environ['FAKE_KEY']}":
            self._answer(401, {"error": "Unauthorized"})
        elif chosen.no_token:
            self._answer(500, {"error": "EngineDeadError"})
        else:
            self._answer(200, {"choices": [{"text": "2"}]})

    def _answer(self, code: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


print("loading", flush=True)
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
if chosen.fail:
    print(chosen.fail[0], end="", file=sys.stderr, flush=True)  # as one that is killed amid a line
    sys.exit(int(chosen.fail[1]))
time.sleep(chosen.slow)
print("serving", flush=True)
ThreadingHTTPServer(("127.0.0.1", chosen.port), Handler).serve_forever()
