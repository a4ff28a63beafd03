"""Runs `vllm bench serve` once for each level in one process: a script for the engine's own python, not imported by labkit.

Importing vLLM costs about 20 s, measuring a level often less; so one process does them all. Reads from standard input one
line of JSON: a list of argument lists for `vllm bench serve`. Writes one line of JSON per event to standard output
("imported", "begin", "result"); what vLLM prints goes to standard error. Ends when standard input closes: its parent is gone.
Checked against the benchmark client of vLLM 0.26.0 and 0.32.0.
"""

import os
import sys

if os.path.samefile(sys.path[0] or ".", os.path.dirname(__file__)):
    sys.path.pop(0)  # this folder is labkit's: its module names must not hide anybody else's

import json
import threading


def main() -> None:
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    levels = json.loads(sys.stdin.readline())
    threading.Thread(target=end_with_parent, daemon=True).start()

    import vllm
    from vllm.benchmarks import serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser(prog="vllm bench serve")
    serve.add_cli_args(parser)
    requests = [parser.parse_args(words) for words in levels]
    tell(events, event="imported", version=vllm.__version__)
    for index, request in enumerate(requests):
        tell(events, event="begin", index=index)
        result = serve.main(request)
        tell(events, event="result", index=index, result={name: value for name, value in result.items() if not isinstance(value, list)})


def tell(events, **content) -> None:  # type: ignore[no-untyped-def]
    print(json.dumps(content), file=events, flush=True)


def end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
