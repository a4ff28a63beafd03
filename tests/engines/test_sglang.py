"""SGLang's log without the key; flags of both engines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.common.errors import SettingError
from labkit.engines import ENGINES
from labkit.engines.pairs import PAIRS, flag_table, other_names
from labkit.engines.sglang import LOGGING
from labkit.serving import servers


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
