"""A log means the same behind what a shipper of logs, a terminal or a forum puts before and around its lines."""

from __future__ import annotations

import gzip
import html
import re
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from labkit.failures.verdicts import Verdict, explain

LOGS = Path(__file__).parent / "logs"
FILES = [row["file"] for row in tomllib.loads((LOGS / "expected.toml").read_text(encoding="utf-8"))["log"]]
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def margin(form: str) -> Callable[[str], str]:
    """Something before each line; {second} counts, as clocks do."""
    return lambda text: "\n".join(
        form.format(second=f"{n % 60:02d}", nano=f"{n * 7919 % 10**9:09d}") + line for n, line in enumerate(text.split("\n"))
    )


def around(before: str, after: str) -> Callable[[str], str]:
    """Words of a reader around a log that was copied without its colours."""
    return lambda text: before + COLOUR.sub("", text) + after


def wrapped(width: int, *, padded: bool = False) -> Callable[[str], str]:
    """Rows as a terminal of that width shows and copies them."""

    def rows(text: str) -> str:
        lines = COLOUR.sub("", text).split("\n")
        cut = [line[at : at + width] for line in lines for at in range(0, max(len(line), 1), width)]
        return "\n".join(row.ljust(width) if padded else row for row in cut)

    return rows


DISGUISES: dict[str, Callable[[str], str]] = {
    "docker logs -t": margin("2025-11-02T10:11:{second}.{nano}Z "),
    "docker compose": margin("vllm-1  | "),
    "docker compose -t": margin("engine  | 2025-11-02T10:11:{second}.{nano}Z "),
    "kubectl --prefix": margin("[pod/vllm-7c9d8f6b5-x2x9z/vllm] "),
    "kubectl --timestamps": margin("[pod/vllm-7c9d8f6b5-x2x9z/vllm] 2025-11-02T10:11:{second}.{nano}Z "),
    "CRI": margin("2025-11-02T10:11:{second}.{nano}+00:00 stderr F "),
    "stern": margin("vllm-7c9d8f6b5-x2x9z vllm "),
    "journald": margin("Nov 17 18:42:{second} gpubox vllm[8052]: "),
    "journald, ISO": margin("2025-11-17T18:42:{second}+0800 gpubox vllm[8052]: "),
    "a runner of CI": margin("[2025-11-02T10:11:{second}Z] "),
    "another program's log": margin("2025-08-13 04:39:{second},839 - __main__ - INFO - "),
    "quoted": margin("> "),
    "a block of Markdown": margin("    "),
    "a terminal of 80 columns": wrapped(80),
    "a terminal of 97 columns": wrapped(97),
    "a terminal of 120 columns": wrapped(120),
    "a terminal of 200 columns": wrapped(200),
    "a window of tmux": wrapped(100, padded=True),
    "numbered": lambda text: "\n".join(f"{number:6}\t{line}" for number, line in enumerate(text.split("\n"), 1)),
    "numbered by grep": lambda text: "\n".join(f"{number}:{line}" for number, line in enumerate(text.split("\n"), 1)),
    "HTML": lambda text: html.escape(COLOUR.sub("", text)),
    "blanks of a word processor": lambda text: text.replace("  ", "\u00a0 "),
    "paths of Windows": lambda text: re.sub(r'File "(/[^"]*)"', lambda path: 'File "C:' + path[1].replace("/", "\\") + '"', text),
    "colours of a terminal": lambda text: "\n".join(f"\x1b[31m{line}\x1b[0m" for line in text.split("\n")),
    "colours without their escape": lambda text: text.replace("\x1b", "^["),
    "lines of Windows": lambda text: text.replace("\n", "\r\n"),
    "blank lines between": lambda text: text.replace("\n", "\n\n"),
    "without marks": lambda text: "\n".join(line for line in text.split("\n") if not re.search(r"[\^~]{4,}\s*$", COLOUR.sub("", line))),
    "Markdown": around("Hi all, any idea? GPU is a 3090, port 8000.\n\n```text\n", "```\n\nThanks in advance!\n"),
    "a forum": around(
        "【求助】显存24G，启动报错，是不是显存不够（OOM）？端口也换过了。\n完整日志如下：\n",
        "\n楼下回复：把 gpu_memory_utilization 调低一点\n",
    ),
}

FILED: dict[str, Callable[[str], bytes]] = {
    "PowerShell": lambda text: b"\xff\xfe" + text.replace("\n", "\r\n").encode("utf-16-le"),
    "gzip": lambda text: gzip.compress(text.encode()),
    "GBK": lambda text: ("以下是日志：\n" + text).encode("gbk", "replace"),
}


@cache
def plain(file: str) -> tuple[str, str]:
    """The text of a log, and what it is explained as."""
    return (LOGS / file).read_text(encoding="utf-8"), explain(LOGS / file).id


def changed(says: Callable[[str, str], Verdict], start: int) -> dict[str, str]:
    """The logs with a traceback that are explained as something else in a disguise: every fourth one, from another start each time."""
    found = {}
    for file in FILES[start % 4 :: 4]:
        text, known_as = plain(file)
        if "Traceback" in text and (now := says(file, text).id) != known_as:
            found[file] = now
    return found


@pytest.mark.parametrize("name", DISGUISES)
def test_a_log_keeps_its_verdict(name: str) -> None:
    assert not changed(lambda _, text: explain(DISGUISES[name](text)), list(DISGUISES).index(name))


@pytest.mark.parametrize("name", FILED)
def test_a_file_keeps_its_verdict(name: str, tmp_path: Path) -> None:
    def says(file: str, text: str) -> Verdict:
        (tmp_path / file).write_bytes(FILED[name](text))
        return explain(tmp_path / file)

    assert not changed(says, list(FILED).index(name))
