"""Both rounds through the real transformers: the same twice, with an adapter, and against vLLM serving the same folder."""

import json
import shutil
from pathlib import Path

import pytest

from labkit import lora
from labkit.evaluation import incidents, offline, online
from labkit.models import course_model
from labkit.models.profiles import profile
from labkit.serving.server import Server
from labkit.training import finetune

from .test_finetune import CONVERSATIONS, SETTINGS

pytestmark = pytest.mark.integration

ASKED = incidents.load("validation", 4)
SHORT = {"max_new_tokens": 48}


@pytest.fixture(scope="module")
def base(home: Path) -> Path:
    return course_model.make(profile("tiny"), home / "models" / "tiny")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune.train(base, CONVERSATIONS, tmp_path_factory.mktemp("adapters") / "one", **SETTINGS).folder


def test_the_same_seed_draws_the_same_replies(base: Path) -> None:
    options = {"temperature": 1.5, "batch": 3, **SHORT}
    one, same, other = (offline.replies(base, ASKED, seed=seed, **options) for seed in (1, 1, 2))
    assert [reply[:2] for reply in one] == [reply[:2] for reply in same] != [reply[:2] for reply in other]


def test_an_injected_adapter_speaks(base: Path, adapter: Path) -> None:
    plain, tuned = offline.replies(base, ASKED, **SHORT), offline.replies(base, ASKED, adapter=adapter, **SHORT)
    assert [reply[:2] for reply in plain] != [reply[:2] for reply in tuned]
    assert all(reply.seconds > 0 for reply in tuned)


def test_a_reply_that_is_cut_off_is_said_so(base: Path) -> None:
    assert offline.score(base, ASKED, max_new_tokens=3).reasons() == {"cut off at 3 tokens": len(ASKED)}


def test_reasoning_that_the_template_opens_is_told_from_an_answer(base: Path, tmp_path: Path) -> None:
    opened = shutil.copytree(base, tmp_path / "opened")
    settings = json.loads((opened / "tokenizer_config.json").read_text())
    settings["chat_template"] += "{%- if add_generation_prompt %}{{- '<think>' }}{%- endif %}"
    (opened / "tokenizer_config.json").write_text(json.dumps(settings))
    (reply,) = offline.replies(opened, ASKED[:1], max_new_tokens=4)
    assert reply.first.startswith("<think>") and reply.limit == 4
    (case,) = offline.score(opened, ASKED[:1], max_new_tokens=4).cases
    assert case.first.reasoning and not case.first.answer


def test_a_comparison_plays_the_task_injected_and_merged(base: Path, adapter: Path, tmp_path: Path) -> None:
    merged = lora.merge(base, adapter, tmp_path / "merged").folder
    found = lora.compare(base, adapter, merged, CONVERSATIONS[:4], incidents=ASKED[:2], max_new_tokens=24)
    assert [score.label for score in found.scores] == [
        f"{way}, temperature {temperature}" for temperature in ("0", "0.7") for way in ("injected", "merged")
    ]
    assert all(len(score.cases) == 2 for score in found.scores)
    assert "JSON compliance" in str(found) and found.figure().png


def test_offline_and_online_say_the_same(base: Path, server: Server) -> None:
    scored = online.score(server, ASKED, concurrency=2)
    found = offline.differences(offline.score(base, ASKED), scored)
    assert found.total == len(ASKED) and len(found) < found.total, found
