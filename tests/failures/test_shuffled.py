"""Logs cut, joined, interleaved, recoloured and shuffled keep their verdict."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.failures.verdicts import explain_text

FAILURES = {
    "no-c-compiler": "RuntimeError: Failed to find C compiler. Please specify via CC environment variable.",
    "no-ninja": "FileNotFoundError: [Errno 2] No such file or directory: 'ninja'",
    "card-in-use": "ValueError: Free memory on device cuda:0 (3.1/139.8 GiB) on startup is less than desired GPU memory utilization (0.92, 128.62 GiB).",
    "disk-quota": "OSError: [Errno 122] Disk quota exceeded: '/data/x'",
    "device-ordinal": "torch.AcceleratorError: CUDA error: invalid device ordinal\nCUDA kernel errors might be asynchronously reported",
    "": "ValueError: nobody has seen this before\nand it has two lines",
}
CAUSE = "The above exception was the direct cause of the following exception:"
COLOURS = ("\x1b[1;36m", "\x1b[0;0m", "\x1b[31m", "\x1b[0m")
FEW = settings(max_examples=60, deadline=None)


def prefixed(process: str, pid: int, level: str, lines: Sequence[str], minute: int) -> list[str]:
    return [f"({process} pid={pid}) {level} 11-26 10:{minute:02d}:00 [core.py:7] {line}" for line in lines]


def start(failure: str, pid: int, *, chained: bool = False) -> list[list[str]]:
    """The lines of each process of a start that fails."""
    inner = ["Traceback (most recent call last):", '  File "/env/vllm/a.py", line 401, in f', "    f()", *failure.split("\n")]
    outer = [
        "",
        CAUSE,
        "",
        "Traceback (most recent call last):",
        '  File "b.py", line 1, in g',
        "RuntimeError: Worker failed with error 'x', see above",
    ]
    core = prefixed("EngineCore", pid, "INFO", ["Initializing a V1 LLM engine", "x %"], 1)
    core += prefixed("EngineCore", pid, "WARNING", ["OSError: only a warning"], 2)
    core += prefixed("EngineCore", pid, "ERROR", ["EngineCore failed to start.", *inner, *(outer if chained else [])], 3)
    server = prefixed("APIServer", pid - 1, "INFO", ["vLLM API server version 0.26.0", "waiting"], 0)
    server += [f"(APIServer pid={pid - 1}) {line}" for line in ("Traceback (most recent call last):", '  File "c.py", line 429, in h')]
    server += [
        f"(APIServer pid={pid - 1}) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{}}"
    ]
    return [server, core]


def merged(parts: Sequence[list[str]], rng: random.Random) -> list[str]:
    """The lines of all parts in some order that keeps that of each part."""
    left = [list(part) for part in parts if part]
    lines: list[str] = []
    while left:
        part = rng.choice(left)
        lines.append(part.pop(0))
        left = [part for part in left if part]
    return lines


def seen(lines: Sequence[str]) -> tuple[str, str]:
    verdict = explain_text("\n".join(lines) + "\n")
    return verdict.id, verdict.message


@FEW
@given(st.sampled_from(sorted(FAILURES)), st.booleans(), st.randoms(use_true_random=False))
def test_processes_interleaved(kind: str, chained: bool, rng: random.Random) -> None:
    message = FAILURES[kind].partition(": ")[2]
    assert seen(merged(start(FAILURES[kind], 7, chained=chained), rng)) == (kind, message)


@FEW
@given(st.sampled_from(sorted(FAILURES)), st.integers(0, 4), st.integers(0, 3))
def test_cut_at_either_end(kind: str, head: int, tail: int) -> None:
    lines = [line for part in reversed(start(FAILURES[kind], 7)) for line in part]
    assert seen(lines[head : len(lines) - tail])[0] == kind


@FEW
@given(st.sampled_from(sorted(FAILURES)), st.sampled_from(sorted(FAILURES)), st.randoms(use_true_random=False))
def test_joined_to_another_start(kind: str, earlier: str, rng: random.Random) -> None:
    before = merged(start(FAILURES[earlier], 107), rng)
    good = prefixed("APIServer", 50, "INFO", ["vLLM API server version 0.26.0", "Application startup complete."], 0)
    now = merged(start(FAILURES[kind], 7), rng)
    now.sort(key=lambda line: "API server version" not in line)  # a start begins with its banner
    assert seen([*before, *now])[0] == kind
    assert seen([*good, *now])[0] == kind


@FEW
@given(st.sampled_from(sorted(FAILURES)), st.randoms(use_true_random=False), st.booleans(), st.booleans())
def test_recoloured_and_with_other_line_ends(kind: str, rng: random.Random, windows: bool, bars: bool) -> None:
    lines = [line for part in reversed(start(FAILURES[kind], 7)) for line in part]
    painted = [f"{rng.choice(COLOURS)}{line}{rng.choice(COLOURS)}" if rng.random() < 0.7 else line for line in lines]
    if bars:
        painted = [f"Loading:  50%|#### | 1/2 [00:01<00:01,  1.9it/s]\r{line}" if rng.random() < 0.2 else line for line in painted]
    text = ("\r\n" if windows else "\n").join(painted)
    verdict = explain_text(text)
    assert (verdict.id, verdict.message) == (kind, FAILURES[kind].partition(": ")[2])


@FEW
@given(
    st.text(alphabet=st.characters(codec="utf-8"), max_size=300),
    st.lists(
        st.sampled_from(
            [
                "Traceback (most recent call last):",
                '  File "a", line 1, in f',
                CAUSE,
                "ValueError: x",
                "  | ",
                "(A pid=1) ",
                "\r",
                "\x1b[0m",
                "error: ",
            ]
        ),
        max_size=12,
    ),
)
def test_nothing_ends_in_an_exception_of_ours(text: str, pieces: list[str]) -> None:
    verdict = explain_text(f"{text}\n" + "\n".join(pieces))
    assert verdict.text("zh") and verdict.text("en")


USAGE = ["usage: vllm serve [model_tag] [options]", "vllm serve: error: unrecognized arguments: --max-modle-len 1024"]
IMPORT = [
    "Traceback (most recent call last):",
    '  File "/usr/local/bin/vllm", line 5, in <module>',
    "    from vllm.entrypoints.cli.main import main",
    '  File "/usr/lib/python3.12/site-packages/vllm/logger.py", line 7, in <module>',
    "    import flash_attn",
    "ModuleNotFoundError: No module named 'flash_attn'",
]
SERVED = [*prefixed("APIServer", 50, "INFO", ["vLLM API server version 0.26.0", "Application startup complete.", "Shutting down"], 0)]
ONLY_A_WRAPPER = [
    "(APIServer pid=50) Traceback (most recent call last):",
    '(APIServer pid=50)   File "/usr/local/bin/vllm", line 8, in <module>',
    "(APIServer pid=50) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': -9}",
]


@pytest.mark.parametrize("kind", FAILURES)
def test_a_start_without_a_banner_is_the_last_one(kind: str) -> None:
    before = sorted((line for part in start(FAILURES[kind], 7) for line in part), key=lambda line: "API server version" not in line)
    assert seen([*before, *USAGE])[0] == "flag-unknown-vllm"
    assert seen([*before, *IMPORT])[0] == "module-missing"
    assert seen([*USAGE, *before])[0] == kind


def test_a_wrapper_alone_after_a_start_that_served_is_told() -> None:
    assert seen([*SERVED, *ONLY_A_WRAPPER])[0] == "host-memory"


def test_what_was_tried_again_is_no_cause_of_what_the_log_breaks_off_in() -> None:
    tried = prefixed(
        "APIServer",
        50,
        "ERROR",
        ["Error retrieving file list: 429 Client Error: Too Many Requests for url: https://huggingface.co/api/x"],
        0,
    )
    cut = prefixed("EngineCore", 7, "ERROR", IMPORT[:3], 1)
    assert seen([*tried, *cut])[0] == ""


def test_a_long_log_is_thinned_and_keeps_its_end() -> None:
    request = '(APIServer pid=50) INFO:     127.0.0.1:1 - "POST /v1/chat/completions HTTP/1.1" 200 OK'
    kind = next(iter(FAILURES))
    last = [line for part in reversed(start(FAILURES[kind], 7)) for line in part]
    verdict = explain_text("\n".join([*[request] * 50_000, *last]))
    assert verdict.id == kind and verdict.number > 50_000
