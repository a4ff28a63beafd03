"""SGLang's data against the failures as SGLang words them; flags of both engines."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.common.errors import SettingError
from labkit.common.logs import explain
from labkit.engines import ENGINES
from labkit.engines.pairs import PAIRS, flag_table, other_names
from labkit.engines.sglang import EXPLANATIONS, LOGGING
from labkit.engines.shared import SHARED
from labkit.serving import servers

FAILURES = {
    "sglang serve: error: unrecognized arguments: --max-modle-len 1024": ("--max-modle-len 1024", "spelling"),
    "ValueError: User-specified context_length (4096) is greater than the derived context_length (512). This may lead to": (
        "4096 tokens) is longer than the one the model was made for (512)",
        "context_length",
    ),
    "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. Current value: mem_fraction_static=0.1": (
        "mem_fraction_static 0.1",
        "smaller or quantised",
    ),
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.": ("ran out of memory", "Lower mem_fraction_static"),
    "RuntimeError: Found no NVIDIA driver on your system. Please check": ("no", "device='cpu'"),
    "RuntimeError: pin_memory=True requires a CUDA or other accelerator backend; no pinned memory allocator is available on this system.": (
        "found none",
        "LoRA does",
    ),
    "ValueError: LoRA adapter a with rank 64 is incompatible with the current LoRA memory pool configuration. Please ensure that the LoRA": (
        "adapter a (rank 64)",
        "max_lora_rank=64",
    ),
    "AssertionError: When no initial --lora-paths is provided, you need to specify both --max-lora-rank and --lora-target-modules for LoRA": (
        "neither an adapter nor their size",
        "lora_target_modules",
    ),
    "ValueError: LoRA adapter 'a' contains target modules ['down_proj'] that are not included in the specified --lora-target-modules ['q_proj'].": (
        "adapter a changes modules that SGLang was not told of: ['down_proj']",
        "'all'",
    ),
    "ValueError: Failed to load a because LoRA serving currently doesn't support DoRA adapters": ("DoRA adapters", "labkit.lora.merge"),
    "LoRA is not enabled. Please set `--enable-lora` to enable LoRA.": ("without LoRA", "enable_lora=True"),
    "AssertionError: something new": ("AssertionError: something new", "above"),
}


@pytest.mark.parametrize("line", FAILURES)
def test_each_failure_is_explained(line: str) -> None:
    verdict = explain(
        f"[2026-11-21 09:33:42] Init torch distributed begin.\n{line}\nSIGQUIT received. It usually means one child failed.\n", EXPLANATIONS
    )
    cause, fix = FAILURES[line]
    assert cause in verdict.cause and fix in verdict.fix and verdict.line == line


def test_every_explanation_is_shown_by_a_failure_above_or_is_rare() -> None:
    rare = {r"trust_remote_code=True", "Ninja is required"}
    unseen = [e.pattern for e in EXPLANATIONS if e not in SHARED and not any(re.search(e.pattern, line) for line in FAILURES)]
    assert all(any(pattern.startswith(start) for start in rare) for pattern in unseen), unseen


def test_each_engine_knows_the_other_s_words() -> None:
    assert ENGINES["sglang"].names["max_model_len"] == "context_length"
    assert ENGINES["vllm"].names["context_length"] == "max_model_len"
    both = {pair.vllm for pair in PAIRS} & {pair.sglang for pair in PAIRS}
    assert not both & (set(other_names("vllm")) | set(other_names("sglang")))


def test_the_flag_table_shows_itself_in_both_languages_and_as_text() -> None:
    table = flag_table()
    assert "--context-length" in str(table) and "显存" in table._repr_html_() and len(str(table).splitlines()) == len(PAIRS) + 1


@pytest.mark.parametrize(("engine", "flag"), [("sglang", "max_num_seqs"), ("vllm", "mem_fraction_static"), ("sglang", "config")])
def test_a_flag_it_cannot_take_is_told_before_anything_is_written(
    engine: str, flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    with pytest.raises(SettingError, match=flag):
        servers.serve(engine, "tiny", **{flag: 1})
    assert not (tmp_path / "home").exists()


def test_its_logging_leaves_out_the_line_with_the_key() -> None:
    code = (
        "import json, logging, logging.config, sys; logging.config.dictConfig(json.load(open(sys.argv[1])));"
        "logging.getLogger('sglang.srt.entrypoints.engine').info('server_args=ServerArgs(api_key=sk-1)');"
        "logging.getLogger('sglang.srt.managers.scheduler').info('max_total_num_tokens=65536')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(LOGGING)], capture_output=True, text=True, check=True)
    assert "sk-1" not in done.stdout + done.stderr and "max_total_num_tokens=65536" in done.stdout
    assert json.loads(LOGGING.read_text())["disable_existing_loggers"] is False
