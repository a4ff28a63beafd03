"""LLaMA-Factory's files, its progress and its errors, with a stand-in for its command that writes what the real one writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import drawn
import pytest
import yaml

from labkit.common.errors import LabError, SettingError
from labkit.failures.verdicts import explain_text
from labkit.models import course_model
from labkit.models.profiles import profile
from labkit.runtimes import environments
from labkit.training import llamafactory

REPLY = '<think>\nThe cache is full.\n</think>\n\n{"root_cause": "kv_cache_exhausted"}'
CONVERSATION = [
    {"role": "system", "content": "You are on call."},
    {"role": "user", "content": "Requests wait."},
    {"role": "assistant", "content": "It looks like the cache."},
    {"role": "user", "content": "JSON only. 只 要 JSON。"},
    {"role": "assistant", "content": REPLY},
]
SHORT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
STAND_IN = """
import json, pathlib, sys, time
import yaml
told = yaml.safe_load(open(sys.argv[2]))
rows = json.load(open("data/conversations.json"))
messages = rows[0]["messages"]
text = "".join(f"<|im_start|>{{m['role']}}\\n{{m['content']}}<|im_end|>\\n" for m in messages)
reply = {reply}
print("[INFO|loader] loading")
print("training example:\\ninput_ids:\\n[1, 2]\\ninputs:\\n" + text + "\\nlabel_ids:\\n[-100, 2]\\nlabels:\\n" + reply + "<|im_end|>\\n")
print("[INFO|2026-01-01 00:00:00] llamafactory.model.loader:144 >> trainable params: 65,536 || all params: 1,574,400 || trainable%: 4.1626", flush=True)
{then}
with open("trainer_log.jsonl", "w") as log:
    for step in range(1, told["max_steps"] + 1):
        print(json.dumps({{"current_steps": step, "total_steps": told["max_steps"], "loss": 4 / step}}), file=log)
    print(json.dumps({{"current_steps": told["max_steps"], "total_steps": told["max_steps"]}}), file=log)
for name in ("adapter_config.json", "adapter_model.safetensors", "training_args.bin"):
    pathlib.Path(name).write_text("written")
"""
Factory = dict[str, str]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return course_model.make(profile("tiny"), tmp_path / "tiny")


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs the stand-in: `factory(reply=<what is learnt>, then=<what it does before the first step>)`."""
    folder = tmp_path / "environment" / "bin"
    folder.mkdir(parents=True)
    made = environments.Runtime("llamafactory", "", folder / "python", {"llamafactory": "0.9.5"})
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(environments, "install", lambda engine: made)
    monkeypatch.setattr(llamafactory, "_on_gpu", lambda: False)

    def install(reply: str = 'messages[-1]["content"]', then: str = "") -> None:
        program = folder / llamafactory.COMMAND
        program.write_text(f"#!{sys.executable}\n" + STAND_IN.format(reply=reply, then=then))
        program.chmod(0o755)

    install()
    return install


def test_an_adapter_appears_with_the_files_that_made_it(
    base: Path, tmp_path: Path, factory: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "adapter"
    training = llamafactory.train(base, [SHORT, CONVERSATION], out, steps=4, batch=2, learning_rate=1e-5, lora_dropout=0.1)
    assert training.losses == (4.0, 2.0, 4 / 3, 1.0)
    assert (training.trainable, training.total, training.conversations) == (65_536, 1_574_400, 2)
    assert {path.name for path in out.iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors", "train.yaml", "data", "trainer_log.jsonl", "training.json")
    }
    told = yaml.safe_load((out / "train.yaml").read_text())
    assert told["model_name_or_path"] == str(base) and told["output_dir"] == "." and told["dataset_dir"] == "data"
    assert told["mask_history"] is True and told["lora_dropout"] == 0.1 and told["learning_rate"] == 1e-5
    assert told["use_cpu"] is True and "template" not in told and "quantization_bit" not in told
    info = json.loads((out / "data" / "dataset_info.json").read_text())["conversations"]
    rows = json.loads((out / "data" / info["file_name"]).read_text())
    assert [row["messages"] for row in rows] == [CONVERSATION, SHORT], (
        "the longest first: it is the one that is held against what was given"
    )
    assert training.yaml in capsys.readouterr().out
    assert str(training).startswith(f"{out}: LLaMA-Factory 0.9.5, rank 8, 65,536 of 1,574,400 parameters trained, 4 steps of 2 on 2")


def test_the_loss_is_drawn(base: Path, tmp_path: Path, factory: Any) -> None:
    training = llamafactory.train(base, [SHORT], tmp_path / "adapter", steps=3, batch=2, accumulate=4)
    (axes,) = drawn.panels(training.figure())
    assert drawn.points(axes) == [(1, 4.0), (2, 2.0), (3, 4 / 3)] and axes.get_xlabel() == "steps of 8 conversations"
    assert "3 steps of 8 on 1 conversations" in str(training)


def test_the_example_shows_what_is_learnt(base: Path, tmp_path: Path, factory: Any) -> None:
    example = llamafactory.train(base, [CONVERSATION], tmp_path / "adapter", steps=1).example
    assert example.learnt == f"{REPLY}<|im_end|>"
    read, learnt = str(example).split("--- learnt\n")
    assert learnt == example.learnt and "Requests wait." in read and "kv_cache" not in read


@pytest.mark.parametrize(
    "learnt", ["'<think>\\n\\n</think>\\n\\n' + messages[-1]['content'].split('\\n\\n')[1]", "messages[-1]['content'][:20]"]
)
def test_another_text_than_was_given_ends_it_before_the_first_step(base: Path, tmp_path: Path, factory: Any, learnt: str) -> None:
    factory(reply=learnt, then="time.sleep(600)")
    with pytest.raises(LabError, match="something else of the longest conversation: what is learnt is not its last reply"):
        llamafactory.train(base, [CONVERSATION], tmp_path / "adapter", steps=1)
    assert not (tmp_path / "adapter").exists() and not list(tmp_path.glob(".adapter*"))


def test_a_conversation_that_is_cut_off_is_noticed(base: Path, tmp_path: Path, factory: Any) -> None:
    factory(then="time.sleep(600)")
    program = tmp_path / "environment" / "bin" / llamafactory.COMMAND
    program.write_text(program.read_text().replace("for m in messages)", "for m in messages[2:])"))
    with pytest.raises(LabError, match=r"its message 0 \(system\) is not in what is read"):
        llamafactory.train(base, [CONVERSATION], tmp_path / "adapter", steps=1)


def test_a_failure_leaves_nothing_and_keeps_its_log(base: Path, tmp_path: Path, factory: Any) -> None:
    factory(then="raise ValueError('Template qwen33 does not exist.')")
    with pytest.raises(LabError, match="no chat template called qwen33") as caught:
        llamafactory.train(base, [CONVERSATION], tmp_path / "adapter", template="qwen33")
    assert not (tmp_path / "adapter").exists() and not list(tmp_path.glob(".adapter*"))
    log = Path(caught.value.fix.rpartition("The whole log: ")[2].removesuffix("."))
    assert "Template qwen33" in log.read_text()


SAID = [
    ("ValueError: Template qwen33 does not exist.", "no chat template called qwen33"),
    ("ValueError: A placeholder is required in the string formatter.", "opens <think> itself"),
    ("ValueError: Some keys are not used by the HfArgumentParser: ['lora_rnk']", "does not know these settings: ['lora_rnk']"),
    (
        "importlib.metadata.PackageNotFoundError: No package metadata was found for The 'bitsandbytes>=0.39.0' distribution was not found and is required by this application.",
        "needs bitsandbytes",
    ),
    (
        "ImportError: peft>=0.18.0,<=0.20.0 is required for a normal functioning of this module, but found peft==0.21.2.",
        "Its environment has peft==0.21.2, and it asks for peft>=0.18.0,<=0.20.0",
    ),
    (
        "ValueError: Target modules {'nosuch'} not found in the base model. Please check the target modules and try again.",
        "no modules called 'nosuch'",
    ),
]


@pytest.mark.parametrize(("line", "meaning"), SAID)
def test_its_words_are_explained(line: str, meaning: str) -> None:
    source = 'raise ValueError(f"Template {data_args.template} does not exist.")\n'
    verdict = explain_text(f"Traceback (most recent call last):\n    {source}{line}\n", engine=llamafactory.ENGINE)
    assert meaning in verdict.cause and verdict.line == line and verdict.fix


def test_it_is_refused_before_anything_is_written(base: Path, tmp_path: Path, factory: Any) -> None:
    out = tmp_path / "adapter"
    refused: list[tuple[dict[str, Any], str]] = [
        ({"conversations": []}, "no conversations"),
        ({"conversations": [CONVERSATION, CONVERSATION[:-1]]}, "Conversation 1 has the roles system, user, assistant, user"),
        ({"conversations": [[CONVERSATION[0], CONVERSATION[-1]]]}, "Conversation 0 has the roles system, assistant"),
        ({"conversations": [[{"role": "user", "content": None}, SHORT[1]]]}, "Conversation 0 has a message without text"),
        ({"rank": 0}, "rank is 0"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"four_bit": True}, "four_bit .* no GPU"),
        ({"output_dir": "elsewhere"}, "output_dir: labkit writes this itself"),
        ({"base": tmp_path / "nowhere"}, "nowhere is not there"),
    ]
    for change, said in refused:
        arguments: dict[str, Any] = {"base": base, "conversations": [CONVERSATION], "out": out} | change
        with pytest.raises(SettingError, match=said):
            llamafactory.train(**arguments)
    out.mkdir()
    (out / "checkpoint-4").mkdir()
    with pytest.raises(SettingError, match="is not empty. LLaMA-Factory goes on, without a word"):
        llamafactory.train(base, [CONVERSATION], out)
    assert [path.name for path in out.iterdir()] == ["checkpoint-4"] and not (tmp_path / "home").exists()


def test_a_base_without_a_chat_template_needs_a_name(base: Path, tmp_path: Path, factory: Any) -> None:
    path = base / "tokenizer_config.json"
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != "chat_template"}))
    with pytest.raises(SettingError, match="no chat template; LLaMA-Factory would train on the bare text"):
        llamafactory.train(base, [SHORT], tmp_path / "adapter", steps=1)
    training = llamafactory.train(base, [SHORT], tmp_path / "adapter", steps=1, template="qwen3_nothink")
    assert yaml.safe_load(training.yaml)["template"] == "qwen3_nothink"


@pytest.mark.parametrize(
    ("driver", "expected"), [("", "llamafactory-cpu"), ("525.60.13", "llamafactory-cuda12"), ("610.1", "llamafactory-cuda12")]
)
def test_the_list_follows_the_driver(driver: str, expected: str) -> None:
    assert environments.runtime_list("llamafactory", driver).list == expected
    assert environments.runtime_list("verl", driver).list == "verl"


@pytest.mark.parametrize(("engine", "name"), [("llamafactory", "torchaudio"), ("verl", "ray")])
def test_a_stand_in_says_what_it_is(engine: str, name: str) -> None:
    row = environments.runtime_list(engine, "")
    assert name not in row.pins() and list(row.overlaid()) == [Path(name, "__init__.py")]
    said: dict[str, Any] = {}
    exec(row.overlaid()[Path(name, "__init__.py")].read_text(), said)
    with pytest.raises(AttributeError, match=f"{name}.load: this environment of labkit's .* empty stand-in"):
        said["__getattr__"]("load")
