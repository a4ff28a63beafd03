"""Training an adapter: what is refused before anything starts, which tokens are learnt, the record. No torch here."""

import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import drawn
import jinja2
import pytest

from labkit.common.errors import LabError, SettingError
from labkit.models import course_model
from labkit.models.profiles import profile
from labkit.training import finetune
from labkit.training.finetune import PeftTraining
from labkit.workers import finetune_worker, launch, transformers_side

CONVERSATION = [
    {"role": "user", "content": "What broke?"},
    {"role": "assistant", "content": "The disk is full."},
    {"role": "user", "content": "JSON only."},
    {"role": "assistant", "content": '<think>\nFull.\n</think>\n\n{"root_cause": "disk_full"}'},
]
REPLY = CONVERSATION[-1]["content"]
CHATML = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
STRIPPING = (
    "{%- for m in messages %}{%- if m.role == 'user' %}{{- '<|User|>' + m.content }}"
    "{%- else %}{{- '<|Assistant|>' + m.content.split('</think>')[-1] + '<|end|>' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|Assistant|>' }}{%- endif %}"
)
"""As DeepSeek-R1-0528's: reasoning is dropped from every finished reply."""
OPENING = STRIPPING.replace("{{- '<|Assistant|>' }}", "{{- '<|Assistant|><think>\\n' }}")
"""As the older R1 distillations': the prompt opens the reasoning."""
OTHERWISE = CHATML.replace("{{- '<|im_start|>assistant\\n' }}", "{{- 'Answer:' }}")


class Tokenizer:
    """One token a character."""

    name_or_path, eos_token = "a folder", "<|end|>"

    def __init__(self, template: str) -> None:
        self.template = jinja2.Environment().from_string(template)

    def apply_chat_template(self, messages: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool) -> str:
        assert not tokenize
        return self.template.render(messages=messages, add_generation_prompt=add_generation_prompt)

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [ord(sign) for sign in text]}


def text(ids: list[int]) -> str:
    return "".join(map(chr, ids))


@pytest.mark.parametrize(
    ("template", "prompt_end", "reply"),
    [
        (CHATML, "JSON only.<|im_end|>\n<|im_start|>assistant\n", REPLY + "<|im_end|>"),
        (STRIPPING, "<|User|>JSON only.<|Assistant|>", REPLY + "<|end|>"),
        (OPENING, "<|User|>JSON only.<|Assistant|><think>\n", REPLY.removeprefix("<think>\n") + "<|end|>"),
    ],
)
def test_the_last_reply_is_learnt_with_its_reasoning_and_its_end(template: str, prompt_end: str, reply: str) -> None:
    sample = transformers_side.encode(Tokenizer(template), CONVERSATION)
    assert text(sample.prompt).endswith(prompt_end)
    assert text(sample.reply) == reply
    assert "The disk is full." in text(sample.prompt)


def test_where_the_template_keeps_the_reply_prompt_and_reply_are_its_own_rendering() -> None:
    tokenizer = Tokenizer(CHATML)
    sample = transformers_side.encode(tokenizer, CONVERSATION)
    assert transformers_side.render(tokenizer, CONVERSATION, asking=False) == text(sample.prompt + sample.reply) + "\n"


def test_a_template_that_asks_otherwise_than_it_writes_is_refused() -> None:
    with pytest.raises(Exception, match="writes a finished conversation otherwise") as refused:
        transformers_side.encode(Tokenizer(OTHERWISE), CONVERSATION)
    assert type(refused.value).__name__ == "Refused"


def test_what_a_template_raises_is_passed_on() -> None:
    with pytest.raises(Exception, match="does not take this conversation: 'list object' has no attribute 'no'"):
        transformers_side.encode(Tokenizer("{{ messages.no.such }}"), CONVERSATION)


def test_every_conversation_is_seen_before_any_comes_again() -> None:
    drawn = list(finetune_worker.batches(10, 4, 5, seed=1))
    assert [len(one) for one in drawn] == [4] * 5
    assert set(Counter(number for one in drawn for number in one).values()) == {2}
    assert drawn == list(finetune_worker.batches(10, 4, 5, seed=1)) != list(finetune_worker.batches(10, 4, 5, seed=2))


def test_a_batch_larger_than_the_data_is_filled() -> None:
    assert [len(one) for one in finetune_worker.batches(3, 8, 2, seed=0)] == [8, 8]


@pytest.mark.parametrize("steps", [1, 2, 20, 500])
def test_the_rate_warms_up_and_ends_near_nothing(steps: int) -> None:
    rates = [finetune_worker.pace(step, steps) for step in range(steps)]
    assert max(rates) == 1 and min(rates) > 0
    assert steps < 20 or rates[-1] < 0.02
    assert steps < 100 or rates[0] < 0.1


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return course_model.make(profile("tiny"), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def no_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Nothing is started; what would be is noted and answered."""
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    requests = []

    def run(path: Path, request: dict[str, Any], **options: Any) -> dict[str, Any]:
        requests.append(request)
        (Path(request["draft"]) / "adapter_config.json").write_text("{}")
        return {
            "losses": [2.0, 1.0, 0.5],
            "trainable": 10,
            "total": 1000,
            "tokens": 30,
            "longest": 40,
            "device": "cpu (2 threads)",
            "products": "float32",
            "seconds_before": 1.0,
            "versions": {"torch": "2"},
        }

    monkeypatch.setattr(launch, "run", run)
    return requests


def test_the_adapter_appears_whole_with_its_record(base: Path, tmp_path: Path, no_worker: list[dict[str, Any]]) -> None:
    training = finetune.train(base, [CONVERSATION], tmp_path / "out" / "adapter", steps=3)
    assert sorted(file.name for file in training.folder.iterdir()) == ["README.md", "adapter_config.json", "training.json"]
    assert [file.name for file in training.folder.parent.iterdir()] == ["adapter"]
    assert PeftTraining.load(training.folder) == training
    assert training.loss == 0.5 and "loss 2.00 to 0.500" in str(training)
    assert no_worker[0]["base"] == str(base) and no_worker[0]["conversations"] == [CONVERSATION]


def test_the_digest_follows_the_conversations(base: Path, tmp_path: Path) -> None:
    one, same, other = (
        finetune.train(base, conversations, tmp_path / str(number)).digest
        for number, conversations in enumerate([[CONVERSATION], [list(CONVERSATION)], [CONVERSATION[2:]]])
    )
    assert one == same != other


def test_small_and_large_bases_have_their_own_settings(base: Path, tmp_path: Path, no_worker: list[dict[str, Any]]) -> None:
    finetune.train(base, [CONVERSATION], tmp_path / "small")
    large = shutil.copytree(base, tmp_path / "large-base")
    shard = large / "huge.safetensors"
    with shard.open("wb") as stream:  # sparse: it takes no room
        size = finetune.SMALL_BYTES
        header = json.dumps({"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + size)
    (large / "model.safetensors.index.json").unlink()
    for file in large.glob("model-*.safetensors"):
        file.unlink()
    finetune.train(large, [CONVERSATION], tmp_path / "large", steps=7)
    assert no_worker[0]["settings"].items() >= finetune.SMALL._asdict().items()
    assert no_worker[1]["settings"].items() >= finetune.LARGE._replace(steps=7)._asdict().items()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"conversations": []}, "no conversations"),
        ({"conversations": [CONVERSATION, CONVERSATION[:1]]}, "Conversation 1 .* not the assistant's"),
        ({"conversations": [CONVERSATION[:3]]}, "Conversation 0 .* not the assistant's"),
        ({"conversations": [[{"role": "robot", "content": "x"}, CONVERSATION[1]]]}, "Conversation 0 .* no role"),
        ({"conversations": [[{"role": "user"}, CONVERSATION[1]]]}, "Conversation 0 .* no role"),
        ({"base": "/nowhere/at/all"}, "/nowhere/at/all is not there"),
        ({"rank": 0}, "rank is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"batch": 1.5}, "batch is 1.5"),
        ({"alpha": 0}, "adds nothing"),
        ({"learning_rate": -1e-4}, "adds nothing"),
        ({"learning_rate": math.nan}, "adds nothing"),
        ({"dropout": 1}, "dropout is 1"),
        ({"targets": []}, "targets is empty"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_starts(
    base: Path, tmp_path: Path, no_worker: list[dict[str, Any]], change: dict[str, Any], said: str
) -> None:
    arguments: dict[str, Any] = {"base": base, "conversations": [CONVERSATION], "out": tmp_path / "out"} | change
    with pytest.raises(SettingError, match=said):
        finetune.train(**arguments)
    assert not no_worker and not (tmp_path / "out").exists()


def test_an_output_folder_in_use_is_left_alone(base: Path, tmp_path: Path, no_worker: list[dict[str, Any]]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "adapter_model.safetensors").write_text("older")
    with pytest.raises(SettingError, match="is not empty"):
        finetune.train(base, [CONVERSATION], tmp_path / "out")
    assert not no_worker and (tmp_path / "out" / "adapter_model.safetensors").read_text() == "older"


def test_a_training_that_fails_leaves_nothing(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, request: dict[str, Any], **options: Any) -> dict[str, Any]:
        (Path(request["draft"]) / "adapter_config.json").write_text("{}")
        raise LabError("The loss became nan at step 3.", "")

    monkeypatch.setattr(launch, "run", fail)
    with pytest.raises(LabError, match="nan"):
        finetune.train(base, [CONVERSATION], tmp_path / "outs" / "out")
    assert not list((tmp_path / "outs").iterdir())


@pytest.mark.parametrize("content", [None, "{", "[]", '{"losses": [1]}'])
def test_a_folder_without_a_record_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "training.json").write_text(content)
    with pytest.raises(LabError, match="training.json is no record"):
        PeftTraining.load(tmp_path)


def test_the_loss_is_drawn(base: Path, tmp_path: Path) -> None:
    training = finetune.train(base, [CONVERSATION], tmp_path / "adapter")
    losses = training.losses + tuple(1 / step for step in range(1, 21))
    picture = replace(training, losses=losses).figure()
    (axes,) = drawn.panels(picture)
    assert [y for _, y in drawn.points(axes)] == pytest.approx(losses) and drawn.points(axes)[0][0] == 1
    assert drawn.points(axes, 1)[0][1] == losses[0] and drawn.points(axes, 1)[-1][1] == pytest.approx(sum(losses[-10:]) / 10)
    assert axes.get_yscale() == "log" and drawn.title(axes) == "loss: nats per token of the reply"
    assert axes.get_xlabel() == f"steps of {training.settings['batch']} conversations"
    assert "loss 2.00" in picture.words and drawn.caption(picture) == " ".join(picture.words.split())
