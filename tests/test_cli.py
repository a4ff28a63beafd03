"""The command line: help a student understands, errors as two sentences, truth about what runs."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from lora_folders import write_adapter, write_base

from labkit import cli
from labkit.cli import main


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("word", ["run", "test", "doctor", "up", "down", "ps", "logs", "download", "tunnel", "merge"])
def test_every_word_has_help_in_both_languages(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([word, "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and any("一" <= letter <= "鿿" for letter in text)


def test_an_unknown_engine_is_an_error_with_a_fix(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "llama"]) == 1
    assert "Fix: Use one of: vllm" in capsys.readouterr().err


def test_an_unknown_word_for_run_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "99"]) == 1
    assert "01_env_setup.ipynb" in capsys.readouterr().err


def test_a_flag_that_nobody_takes_is_refused() -> None:
    with pytest.raises(SystemExit) as end:
        main(["ps", "--nosuch"])
    assert end.value.code == 2


def test_down_without_servers_is_calm(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down"]) == 0 and "nothing runs" in capsys.readouterr().out


def test_down_of_a_server_that_never_ran_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down", "vllm"]) == 1 and "No server 'vllm' runs here" in capsys.readouterr().err


def test_logs_of_a_server_that_never_ran_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "vllm"]) == 1 and "never started" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["ssh", "-p", "46457", "root@box"],
        ["ssh -p 46457 root@box"],
        ["--", "ssh", "root@box", "-p46457"],
        ["ssh", "-p", "46457", "--", "root@box"],
        ["-p", "46457", "root@box"],
        ["--ports", "8080", "8000", "ssh", "-p", "46457", "root@box"],
        ["--share", "ssh -p 46457 root@box"],
    ],
)
def test_tunnel_takes_the_login_line_with_or_without_quotes(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tunnel", *words]) == 0 and "-p 46457 root@box" in capsys.readouterr().out


def test_tunnel_takes_ports_and_refuses_what_is_no_login(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tunnel", "--ports", "8080", "8000", "--", "ssh", "box"]) == 0
    assert "127.0.0.1:8000:127.0.0.1:8000" in capsys.readouterr().out
    assert main(["tunnel", "ssh", "-p", "x", "root@box"]) == 1 and "Fix:" in capsys.readouterr().err


def test_tunnel_reads_every_line_that_is_pasted_into_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, encoding="utf-8") as terminal, os.fdopen(master, "wb", buffering=0) as keyboard:
        keyboard.write("登录指令\nssh -p 46457 root@box\n密码 Zq7xKw\n".encode())
        monkeypatch.setattr(sys, "stdin", terminal)
        assert main(["tunnel"]) == 0
    said = capsys.readouterr()
    assert "-p 46457 root@box" in said.out and "Zq7xKw" not in said.out + said.err


@pytest.mark.parametrize("words", [["ssh", "--pasword=Zq7xKw", "root@box"], ["ssh", "root@box", "ls", "Zq7xKw"], ["-Zq7xKw"], ["Zq7xKw"]])
def test_tunnel_repeats_nothing_that_was_pasted(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tunnel", *words]) == 1
    said = capsys.readouterr()
    assert "Fix:" in said.err and "Zq7xKw" not in said.out + said.err


def test_import_brings_no_torch_and_no_engine() -> None:
    code = "import json, sys, labkit; labkit.serve, labkit.attach, labkit.LabError; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert not {"torch", "vllm", "transformers", "matplotlib", "IPython", "openai"} & set(loaded)


def test_an_unknown_name_of_the_package_lists_those_that_exist() -> None:
    import labkit

    with pytest.raises(AttributeError, match="serve"):
        labkit.nonsense  # noqa: B018


def test_following_a_log_ends_with_the_last_words_of_the_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Ending:
        """Alive once, and gone amid a line."""

        log = tmp_path / "out.log"
        words = ["killed", " was there\nserving\n"]

        @property
        def alive(self) -> bool:
            with self.log.open("a") as stream:
                stream.write(self.words.pop())
            return bool(self.words)

    Ending.log.write_text("what `logs` showed")
    cli._follow(Ending(), errors=False)  # type: ignore[arg-type]
    assert capsys.readouterr().out == " was there\nserving\nkilled\n"


def test_merge_checks_without_a_place_to_merge_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, adapter = write_base(tmp_path / "base"), write_adapter(tmp_path / "adapter", use_rslora=True)
    assert cli.main(["merge", "--check-only", str(base), str(adapter)]) == 0
    said = capsys.readouterr().out
    assert "vLLM 0.32.0 can serve it unmerged" in said and "SGLang 0.5.19 cannot serve it unmerged" in said
    assert cli.main(["merge", str(base), str(adapter)]) == 1
    assert "no folder to merge to" in capsys.readouterr().err


def test_merge_goes_on_only_with_what_was_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, adapter = write_base(tmp_path / "base"), write_adapter(tmp_path / "adapter")
    (adapter / "value_head.bin").write_bytes(b"trained")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("dear")
    words = ["merge", str(base), str(adapter)]
    assert cli.main([*words, "--check-only"]) == 1
    assert cli.main([*words, str(tmp_path / "new")]) == 1
    assert "value_head.bin" in capsys.readouterr().err and not (tmp_path / "new").exists()
