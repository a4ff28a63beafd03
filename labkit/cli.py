"""The command line, `./lab`: one line of help and one function for each word; the work is done elsewhere.

A `LabError` is printed as its two sentences and ends with exit code 1; anything else is a bug and shows its traceback.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .common.amounts import GIB
from .common.errors import LabError
from .failures.wording import as_flags
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
    chosen, rest = parser.parse_known_args(arguments)
    if rest and not chosen.takes_rest:
        parser.error(f"unknown: {' '.join(rest)}")
    chosen.rest = [word for word in rest if word != "--"]
    try:
        return int(chosen.action(chosen) or 0)
    except LabError as error:
        said = as_flags(str(error), chosen.rest) if chosen.word == "up" else str(error)
        print(f"{type(error).__name__}: {said}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


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

    explain = _word(words, "explain", _explain, "why a log ends in a failure: of this machine, a colleague, a container · 解释日志里的错误")
    explain.add_argument("file", help="the log, or - for standard input")
    explain.add_argument("--engine", default="", help="vllm, sglang, open_webui ... (default: the log tells)")
    explain.add_argument("--language", default="", choices=["en", "zh"], help="default: both")

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
    merge.add_argument("out", help="the folder to make; it must not exist, or be empty")
    merge.add_argument("--check-only", action="store_true", help="say what was found and stop")
    merge.add_argument("--method", default="labkit", choices=["labkit", "peft"], help="peft: with the whole model in memory")
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
    from .machine.tunnels import tunnel

    words = [word for word in chosen.login if word != "--"]
    if not words and sys.stdin.isatty():
        print(f"Paste the login line, for example: {EXAMPLE}", file=sys.stderr)
        words = [sys.stdin.readline()]
    elif not words:
        words = [sys.stdin.read()]
    line = words[0] if len(words) == 1 else shlex.join(words)
    print(tunnel(line, chosen.ports or settings().ports["open_webui"], share=chosen.share).text())


def _down(chosen: argparse.Namespace) -> int:
    from .serving.server import attach, running

    servers = [attach(name) for name in chosen.names] if chosen.names else running()
    if not servers:
        print("nothing runs")
    kept = 0
    for server in servers:
        report = server.stop()
        kept += not report.returned
        print(f"{server.name}: {report}")
    return min(kept, 1)


def _ps(chosen: argparse.Namespace) -> None:
    from .engines import ENGINES
    from .machine.gpu import find
    from .serving.registry import entries
    from .serving.server import Server

    rows = [("NAME", "STATE", "PORT", "MODEL", "GPU", "OWNER", "MEMORY", "SINCE", "NOTE")]
    for entry in entries():
        record, status = entry.record, entry.status()
        if record is None:
            continue
        since = time.strftime("%m-%d %H:%M", time.localtime(record.created_at))
        gpus = ",".join(device.cuda_name for device in find(record.gpus)) or "-"
        state, memory, note = status.state, "", status.note
        if record.engine not in ENGINES:
            note = f"{record.engine} is no engine that this labkit knows"
        elif status.alive:
            server = Server(ENGINES[record.engine], entry)
            memory = f"{sum(process.memory_info().rss for process in server.processes()) / GIB:.1f} GiB"
            state = "not answering" if state == "ready" and not server.answers() else state
        rows.append((entry.name, state, str(record.port), record.model, gpus, record.owner, memory, since, note))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


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
    report = lora.check(base, chosen.adapter)
    print(report)
    if report and not chosen.check_only:
        print(lora.merge(base, chosen.adapter, chosen.out, method=chosen.method))
    return 0 if report else 1
