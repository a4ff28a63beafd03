"""What can be typed after `./lab`: the words, their arguments, a line of help for each in both languages.

Does not cover: what a word does (`cli`).
"""

from __future__ import annotations

import argparse

from .models.profiles import profiles

EPILOG = """\
first time       ./lab doctor          what this machine is and what to put right
                 ./lab run 01 02 03    the course, from notebook 01 on (makes what it needs; minutes)
every day        ./lab up vllm         serve a model that stays up; then ps, logs, down
第一次：./lab doctor 看机器，./lab run 01 02 03 跑课程；平时：./lab up vllm，然后 ps、logs、down。
"""


def parser() -> argparse.ArgumentParser:
    """The parser; what was typed comes with `word`, and with `takes_rest` where further words go on to somebody else."""
    made = argparse.ArgumentParser(prog="./lab", epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.set_defaults(takes_rest=False)
    words = made.add_subparsers(dest="word", required=True, metavar="WORD")

    run = _word(words, "run", "run notebooks from the first cell to the last · 运行课程")
    run.add_argument("notebooks", nargs="*", metavar="NN", help="01 02 03; all of them if none is named")
    run.add_argument("--profile", default="auto", help=f"course model: auto, {', '.join(profiles())}")
    run.add_argument(
        "-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a value for the parameters cell"
    )
    run.add_argument("--out", help="folder for executed notebooks, HTML and summary.json (default: runs/ beside notebooks/)")
    run.add_argument("--keep-going", action="store_true", help="go on with the next notebook after a failure")
    run.add_argument("--bless", action="store_true", help="for authors: write the check cells' outputs back into the notebooks")

    test = _word(words, "test", "run the tests: all, or one tier · 运行测试", takes_rest=True)
    test.add_argument(
        "tier",
        nargs="?",
        default="all",
        choices=["all", "unit", "faults", "integration", "notebooks"],
        help="all is unit, integration, notebooks; faults: every download fault with every client; further words go to pytest",
    )

    _word(words, "doctor", "what this machine is, and what to put right · 检查机器")

    up = _word(words, "up", "start a server that stays up; further flags go to the engine · 启动服务", takes_rest=True)
    up.add_argument("engine", help="vllm, sglang, or open-webui (the chat page: no model behind it)")
    up.add_argument("model", nargs="?", default="auto", help="a profile, a folder or a hub's id")
    up.add_argument("--name", help="a name of its own, for several servers of one engine (default: the engine's)")
    up.add_argument("--port", type=int, help="default: the engine's own; for another name the next one that is free")
    up.add_argument("--gpus", metavar="0,1", help="indices as nvidia-smi shows them, or UUIDs")
    up.add_argument("--share-gpu", action="store_true", help="also on a GPU that another server of the kit uses")
    up.add_argument("--no-wait", action="store_true", help="return at once; ./lab ps tells when it is ready")
    up.add_argument("--modelscope", action="store_true", help="take a hub id from ModelScope")

    down = _word(words, "down", "stop servers and see their memory come back · 停止服务")
    down.add_argument("names", nargs="*", metavar="NAME")
    down.add_argument("--all", action="store_true", help="every server of this kit (also without names)")

    _word(words, "ps", "which servers run, from the process table · 查看服务")

    logs = _word(words, "logs", "the log of a server · 查看日志")
    logs.add_argument("name", nargs="?", default="vllm")
    logs.add_argument("-n", "--lines", type=int, default=40)
    logs.add_argument("-e", "--errors", action="store_true", help="standard error instead of standard output")
    logs.add_argument("-f", "--follow", action="store_true", help="go on as it grows (Ctrl-C ends it)")

    explain = _word(words, "explain", "why a log ends in a failure: of this machine, a colleague, a container · 解释日志里的错误")
    explain.add_argument("file", help="the log, or - for standard input")
    explain.add_argument("--engine", default="", help="vllm, sglang, open_webui ... (default: the log tells)")
    explain.add_argument("--language", default="", choices=["en", "zh"], help="default: both")

    tunnel = _word(words, "tunnel", "how to reach a page of this machine from your own computer · 从自己的电脑访问")
    tunnel.add_argument("--ports", type=int, nargs="+", default=None, metavar="PORT", help="ports of this machine (default: Open-WebUI's)")
    tunnel.add_argument("--share", action="store_true", help="-g: also for the computers around yours; read the warning")
    tunnel.add_argument("login", nargs=argparse.REMAINDER, help="the login line, as AutoDL shows it; asked for if left out")

    download = _word(words, "download", "fetch a course model and verify it · 下载模型")
    download.add_argument("profile", nargs="?", default="auto")
    download.add_argument("--source", default="modelscope", choices=["modelscope", "huggingface", "git-lfs"])

    merge = _word(words, "merge", "check a LoRA adapter and merge it into its base · 检查并合并 LoRA")
    merge.add_argument("base", help="a profile, or the folder of the base model")
    merge.add_argument("adapter", help="the folder with adapter_config.json")
    merge.add_argument("out", nargs="?", help="the folder to make; it must not exist, or be empty (not needed with --check-only)")
    merge.add_argument("--check-only", action="store_true", help="say what was found and stop")
    merge.add_argument("--method", default="labkit", choices=["labkit", "peft"], help="peft: with the whole model in memory")
    merge.add_argument("--tokenizer", default="base", choices=["base", "adapter"], help="whose tokenizer and chat template the result gets")
    merge.add_argument("--accept", action="append", default=[], metavar="KIND", help="go on with findings of this kind; may be repeated")
    merge.add_argument("--allow-pickle", action="store_true", help="read an adapter_model.bin (tensors only)")
    return made


def _word(
    words: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    *,
    takes_rest: bool = False,
) -> argparse.ArgumentParser:
    parser = words.add_parser(name, help=text, description=text)
    parser.set_defaults(takes_rest=takes_rest)
    return parser
