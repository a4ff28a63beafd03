"""The command line, `./lab`: one line of help and one function for each word; the work is done elsewhere.

A `LabError`, and what the system refuses, is printed as its two sentences and ends with exit code 1. Anything else is a fault of labkit's:
one sentence, and a report with the traceback in a file of your own.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .common.errors import LabError
from .common.faults import fault
from .common.refusals import refusal
from .failures.wording import as_flags
from .models.profiles import profiles
from .words import parser

if TYPE_CHECKING:
    from .serving.server import Server


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    reader, typed = parser(), list(sys.argv[1:] if arguments is None else arguments)
    if typed[:1] == ["tunnel"]:
        from .machine.tunnels import with_login_apart

        typed = with_login_apart(typed)
    if not all(_is_text(word) for word in typed):
        reader.error("a word is no text in UTF-8")
    chosen, rest = reader.parse_known_args(typed)
    if rest and not chosen.takes_rest:
        reader.error(f"unknown: {' '.join(rest)}")
    chosen.rest = [word for word in rest if word != "--"]
    try:
        return int(ACTIONS[chosen.word](chosen) or 0)
    except LabError as error:
        return _tell(error, as_flags(str(error), chosen.rest) if chosen.word == "up" else str(error))
    except BrokenPipeError:  # whoever read our output has gone: ./lab logs | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return _tell(refusal(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        return _tell(fault(error))


def _tell(error: LabError, said: str = "") -> int:
    print(f"{type(error).__name__}: {said or error}", file=sys.stderr)
    return 1


def _is_text(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _run(chosen: argparse.Namespace) -> int:
    from .course.runner import RUNS, run

    return run(
        chosen.notebooks,
        profile=chosen.profile,
        parameters=dict(chosen.parameter),
        out=chosen.out or RUNS,
        keep_going=chosen.keep_going,
        bless=chosen.bless,
    )


def _test(chosen: argparse.Namespace) -> int:
    from .course.testing import run_tests

    return run_tests(chosen.tier, chosen.rest)


def _doctor(chosen: argparse.Namespace) -> int:
    from .course.checkup import doctor

    report = doctor()
    print(report.text())
    return report.exit_code


def _up(chosen: argparse.Namespace) -> None:
    from .serving.servers import serve

    if chosen.engine.replace("-", "_") in ("open_webui", "webui"):
        return _up_page(chosen)
    server = serve(
        chosen.engine,
        chosen.model,
        name=chosen.name,
        port=chosen.port,
        gpus=chosen.gpus,
        share_gpu=chosen.share_gpu,
        owner="lab",
        wait=not chosen.no_wait,
        use_modelscope=chosen.modelscope,
        extra=chosen.rest,
    )
    print(f"{server!r}\nkey in {server.key_file}\nlog {server.log}\nstop it: ./lab down {server.name}")


def _up_page(chosen: argparse.Namespace) -> None:
    from . import webui

    if chosen.rest or chosen.model != "auto" or chosen.name or chosen.gpus:
        raise LabError("Open-WebUI takes no model and no further flags here.", "./lab up open-webui [--port PORT]")
    page = webui.serve(port=chosen.port, owner="lab")
    print(f"{page!r}\nthe way in: ./lab tunnel\nlog {page.server.log}\nstop it: ./lab down open_webui")


def _tunnel(chosen: argparse.Namespace) -> None:
    from .common.settings import settings
    from .machine.logins import EXAMPLE
    from .machine.pasted_text import pasted_lines
    from .machine.tunnels import tunnel

    words = chosen.login[chosen.login[:1] == ["--"] :]
    if not words and sys.stdin.isatty():
        print(f"Paste the login line, for example: {EXAMPLE}", file=sys.stderr)
        words = [pasted_lines()]
    elif not words:
        words = [sys.stdin.read()]
    line = words[0] if len(words) == 1 else shlex.join(words)
    print(tunnel(line, chosen.ports or settings().ports["open_webui"], share=chosen.share).text())


def _down(chosen: argparse.Namespace) -> int:
    from .serving.registry import entries
    from .serving.server import down

    names = chosen.names or [entry.name for entry in entries() if entry.status().alive]
    if not names:
        print("nothing runs")
    failed = 0
    for name in names:
        try:
            print(f"{name}: {down(name)}", flush=True)
        except LabError as error:
            failed = 1
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return failed


def _ps(chosen: argparse.Namespace) -> None:
    from .serving.overview import overview

    print(overview())


def _logs(chosen: argparse.Namespace) -> None:
    from .serving.registry import ServerFolder
    from .serving.server import Server, known_engine

    folder = ServerFolder(chosen.name)
    record = folder.record
    if record is None:
        raise LabError(f"No server {chosen.name!r} was ever started here.", "./lab ps lists what was.")
    server = Server(known_engine(record), folder)
    text = server.logs(chosen.lines, errors=chosen.errors)
    if not text and not chosen.errors and server.logs(1, errors=True):
        print(f"{server.log} is empty; the error log is not: ./lab logs {chosen.name} --errors", file=sys.stderr)
    print(text)
    if chosen.follow:
        _follow(server, errors=chosen.errors)


def _follow(server: Server, *, errors: bool) -> None:
    from .common.logs import Follower

    follower = Follower([server.errors if errors else server.log])
    follower.new(last=True)
    while server.alive:
        sys.stdout.write(follower.new())
        sys.stdout.flush()
        time.sleep(0.5)
    sys.stdout.write(follower.new(last=True))


def _explain(chosen: argparse.Namespace) -> None:
    from .failures.verdicts import explain, explain_text

    verdict = (
        explain_text(sys.stdin.read(), engine=chosen.engine) if chosen.file == "-" else explain(Path(chosen.file), engine=chosen.engine)
    )
    print(as_flags(verdict.text(chosen.language)))


def _download(chosen: argparse.Namespace) -> None:
    from .hub.downloads import download
    from .hub.loopback import open_hub
    from .models.profiles import profile

    wanted = profile(chosen.profile)
    with open_hub(wanted) as hub:
        print(download(wanted, source=chosen.source, hub=hub))


def _merge(chosen: argparse.Namespace) -> int:
    from . import lora
    from .models.profiles import profile

    base = profile(chosen.base).folder() if chosen.base in profiles() else chosen.base
    report = lora.check(base, chosen.adapter, allow_pickle=chosen.allow_pickle)
    print(report)
    if chosen.check_only:
        return 0 if report else 1
    if not chosen.out:
        raise LabError("./lab merge has no folder to merge to.", "./lab merge BASE ADAPTER OUT, or --check-only.")
    options = {name: getattr(chosen, name) for name in ("method", "tokenizer", "accept", "allow_pickle")}
    print(lora.merge(base, chosen.adapter, chosen.out, **options))
    return 0


ACTIONS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "run": _run,
    "test": _test,
    "doctor": _doctor,
    "up": _up,
    "down": _down,
    "ps": _ps,
    "logs": _logs,
    "explain": _explain,
    "tunnel": _tunnel,
    "download": _download,
    "merge": _merge,
}
