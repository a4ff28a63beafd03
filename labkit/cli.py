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
from typing import TYPE_CHECKING

from .common.errors import LabError
from .common.faults import fault
from .common.refusals import refusal
from .models.profiles import profiles

if TYPE_CHECKING:
    from .serving.server import Server


EPILOG = """\
first time       ./lab doctor          what this machine is and what to put right
                 ./lab run 01 02 03    the course, from notebook 01 on (makes what it needs; minutes)
every day        ./lab up vllm         serve a model that stays up; then ps, logs, down
第一次：./lab doctor 看机器，./lab run 01 02 03 跑课程；平时：./lab up vllm，然后 ps、logs、down。
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = _parser()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["tunnel"]:
        from .machine.tunnels import with_login_apart

        words = with_login_apart(words)
    chosen, rest = parser.parse_known_args(words)
    if rest and not chosen.takes_rest:
        parser.error(f"unknown: {' '.join(rest)}")
    chosen.rest = [word for word in rest if word != "--"]
    try:
        return int(chosen.action(chosen) or 0)
    except LabError as error:
        return _tell(error)
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


def _tell(error: LabError) -> int:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./lab", epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(takes_rest=False)
    words = parser.add_subparsers(dest="word", required=True, metavar="WORD")

    run = _word(words, "run", _run, "run notebooks from the first cell to the last · 运行课程")
    run.add_argument("notebooks", nargs="*", metavar="NN", help="01 02 03; all of them if none is named")
    run.add_argument("--profile", default="auto", help=f"course model: auto, {', '.join(profiles())}")
    run.add_argument(
        "-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a value for the parameters cell"
    )
    run.add_argument("--out", help="folder for executed notebooks, HTML and summary.json (default: runs/ beside notebooks/)")
    run.add_argument("--keep-going", action="store_true", help="go on with the next notebook after a failure")
    run.add_argument("--bless", action="store_true", help="for authors: write the check cells' outputs back into the notebooks")

    test = _word(words, "test", _test, "run the tests: all, or one tier · 运行测试", takes_rest=True)
    test.add_argument(
        "tier", nargs="?", default="all", choices=["all", "unit", "integration", "notebooks"], help="further words go to pytest"
    )

    _word(words, "doctor", _doctor, "what this machine is, and what to put right · 检查机器")

    up = _word(words, "up", _up, "start a server that stays up; further flags go to the engine · 启动服务", takes_rest=True)
    up.add_argument("engine", help="vllm, sglang, or open-webui (the chat page: no model behind it)")
    up.add_argument("model", nargs="?", default="auto", help="a profile, a folder or a hub's id")
    up.add_argument("--name", help="a name of its own, for several servers of one engine (default: the engine's)")
    up.add_argument("--port", type=int, help="default: the engine's own; for another name the next one that is free")
    up.add_argument("--gpus", metavar="0,1", help="indices as nvidia-smi shows them, or UUIDs")
    up.add_argument("--share-gpu", action="store_true", help="also on a GPU that another server of the kit uses")
    up.add_argument("--no-wait", action="store_true", help="return at once; ./lab ps tells when it is ready")
    up.add_argument("--modelscope", action="store_true", help="take a hub id from ModelScope")

    down = _word(words, "down", _down, "stop servers and see their memory come back · 停止服务")
    down.add_argument("names", nargs="*", metavar="NAME")
    down.add_argument("--all", action="store_true", help="every server of this kit (also without names)")

    _word(words, "ps", _ps, "which servers run, from the process table · 查看服务")

    logs = _word(words, "logs", _logs, "the log of a server · 查看日志")
    logs.add_argument("name", nargs="?", default="vllm")
    logs.add_argument("-n", "--lines", type=int, default=40)
    logs.add_argument("-e", "--errors", action="store_true", help="standard error instead of standard output")
    logs.add_argument("-f", "--follow", action="store_true", help="go on as it grows (Ctrl-C ends it)")

    tunnel = _word(words, "tunnel", _tunnel, "how to reach a page of this machine from your own computer · 从自己的电脑访问")
    tunnel.add_argument("--ports", type=int, nargs="+", default=None, metavar="PORT", help="ports of this machine (default: Open-WebUI's)")
    tunnel.add_argument("--share", action="store_true", help="-g: also for the computers around yours; read the warning")
    tunnel.add_argument("login", nargs=argparse.REMAINDER, help="the login line, as AutoDL shows it; asked for if left out")

    download = _word(words, "download", _download, "fetch a course model and verify it · 下载模型")
    download.add_argument("profile", nargs="?", default="auto")
    download.add_argument("--source", default="modelscope", choices=["modelscope", "huggingface", "git-lfs"])

    merge = _word(words, "merge", _merge, "check a LoRA adapter and merge it into its base · 检查并合并 LoRA")
    merge.add_argument("base", help="a profile, or the folder of the base model")
    merge.add_argument("adapter", help="the folder with adapter_config.json")
    merge.add_argument("out", nargs="?", help="the folder to make; it must not exist, or be empty (not needed with --check-only)")
    merge.add_argument("--check-only", action="store_true", help="say what was found and stop")
    merge.add_argument("--method", default="labkit", choices=["labkit", "peft"], help="peft: with the whole model in memory")
    merge.add_argument("--tokenizer", default="base", choices=["base", "adapter"], help="whose tokenizer and chat template the result gets")
    merge.add_argument("--accept", action="append", default=[], metavar="KIND", help="go on with findings of this kind; may be repeated")
    merge.add_argument("--allow-pickle", action="store_true", help="read an adapter_model.bin (tensors only)")
    return parser


def _word(
    words: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    action: Callable[[argparse.Namespace], int | None],
    text: str,
    *,
    takes_rest: bool = False,
) -> argparse.ArgumentParser:
    parser = words.add_parser(name, help=text, description=text)
    parser.set_defaults(action=action, takes_rest=takes_rest)
    return parser


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
