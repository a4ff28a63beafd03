"""A proof's verdict and words, from numbers; what is asked of the worker, what is refused before it starts. No torch here."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import drawn
import pytest

from labkit.common.errors import LabError, SettingError
from labkit.evaluation import incidents, scores
from labkit.lora import comparing
from labkit.lora.proof import Proof
from labkit.models import course_model
from labkit.models.profiles import profile
from labkit.workers import launch
from labkit.workers.messages import parse
from labkit.workers.offline_job import OfflineReply
from labkit.workers.proof_job import Disagreement, ModelDifference, ModuleKind, ProofRequest, ProofResult, TeacherForced

CONVERSATION = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}]


def forced(agreement: float = 1.0, **other: Any) -> TeacherForced:
    numbers: dict[str, Any] = {
        "tokens": 1000,
        "agreement": agreement,
        "largest": 0.5,
        "mean": 0.04,
        "divergence": 0.001,
        "edges": (0.01, 0.1, 1.0),
        "counts": (5, 900, 95, 0),
        "widest_margin": 0.06,
        "apart": (Disagreement("a", "a", "b", 0.06),) if agreement < 1 else (),
    }
    return TeacherForced(**{**numbers, **other})


def proof(**other: Any) -> Proof:
    parts: dict[str, Any] = {
        "base": Path("base"),
        "adapter": Path("adapter"),
        "merged": Path("merged"),
        "dtype": "bfloat16",
        "device": "cpu (2 threads)",
        "weights": (
            ModuleKind("q_proj", 2, 2, 1000, 900, 0.02, 0.5),
            ModuleKind("v_proj", 2, 1, 1000, 300, 0.01, 0.49),
            ModuleKind("norm", 3, 0, 400, 0, 0.0, None),
        ),
        "astray": (),
        "forced": forced(),
        "exact": forced(largest=0.02, mean=0.003),
        "base_agreement": 0.4,
        "scores": (),
        "seconds": 9.0,
    }
    return Proof(**{**parts, **other})


def test_a_sound_merge_holds_and_says_so_in_the_same_words_for_every_model() -> None:
    assert proof()
    assert proof().lines() == ["weights: within one rounding", "same first token: at least 99%", "merge: holds"]
    assert proof(exact=None, forced=forced(0.993)).lines() == proof().lines()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"forced": forced(0.95), "exact": None}, "agrees at 95.00% of the positions only"),
        ({"exact": forced(0.98)}, "agrees at 98.00% of the positions only"),
        ({"astray": ("model.norm.weight",)}, "1 tensors differ .* model.norm.weight"),
        ({"weights": (ModuleKind("q_proj", 2, 2, 1000, 900, 0.02, 37.0),)}, "37.0 units in the last place"),
    ],
)
def test_a_merge_that_did_harm_is_false_and_says_where(change: dict[str, Any], said: str) -> None:
    harmed = proof(**change)
    assert not harmed
    assert re.search(said, harmed.lines()[-1])


def test_numbers_that_no_rounding_makes_are_not_explained_by_rounding() -> None:
    far = proof(
        weights=(ModuleKind("embed_tokens", 1, 1, 1000, 900, 2.0, 4980533.5),), forced=forced(0.07, widest_margin=3.0), exact=forced(0.07)
    )
    words = str(far)
    assert far.lines()[0] == "weights: up to 4,980,534 units in the last place from the exact sum"
    assert "Roundings do not explain" in far.explanation() and "first token" in far.explanation()
    for part in ("within one", "So the roundings fall elsewhere", "near ties", "only the rounding of the merged weights is left"):
        assert part not in words


def test_near_ties_of_the_models_own_type_are_told_and_are_no_fault_of_the_merge() -> None:
    unsure = proof(forced=forced(0.95), exact=forced(1.0))
    assert unsure and unsure.lines()[1] == "same first token: 95.00% (100.00% in fp32 arithmetic)"


def test_one_unit_is_borne_but_not_called_one_rounding() -> None:
    one_off = proof(weights=(ModuleKind("q_proj", 2, 2, 1000, 900, 0.02, 1.0),))
    assert one_off and one_off.lines()[0] == "weights: within one unit"


def test_without_an_exact_sum_the_rounding_is_left_open() -> None:
    dora = proof(weights=(ModuleKind("q_proj", 2, 2, 1000, 900, 0.02, None),))
    assert dora and dora.ulps is None and "not held against" in dora.lines()[0]
    assert "units in the last place" not in dora.explanation()


def test_shares_are_of_all_weights() -> None:
    assert proof().share_changed == 1200 / 2400
    assert proof().ulps == 0.5


def test_the_explanation_names_both_ways_of_rounding_and_its_numbers() -> None:
    words = proof(forced=forced(0.995)).explanation()
    for part in (
        "in every forward pass",
        "rounded to bfloat16 once",
        "99.50%",
        "base alone: 40.00%",
        "at most 0.06 apart",
        "In fp32 arithmetic",
    ):
        assert part in words
    assert "near ties" not in proof().explanation()
    assert "In fp32 arithmetic" not in proof(exact=None).explanation()


def test_it_shows_itself() -> None:
    shown = proof()
    assert str(shown).splitlines()[1].split() == ["q_proj", "2", "of", "2", "90.0%", "0.02", "0.500"]
    assert "0 of 3" in str(shown)
    assert "50.0% of all weights" in shown._repr_html_()


def test_logits_and_changed_weights_are_drawn() -> None:
    picture = proof().figure()
    logits, weights = drawn.panels(picture)
    assert drawn.legend(logits) == ["computed in bfloat16", "computed in float32"] and logits.get_xscale() == "log"
    for bars in logits.containers:
        assert [(bar.get_x(), bar.get_height()) for bar in bars] == [(0.01, 905), (0.1, 95)]
        assert [bar.get_width() for bar in bars] == pytest.approx([0.09, 0.9])
    (bars,) = weights.containers
    assert [bar.get_width() for bar in bars] == [90, 30] and weights.get_xlim() == (0, 100)
    assert [label.get_text() for label in weights.get_yticklabels()] == ["q_proj", "v_proj"]
    assert drawn.title(weights) == "changed by the merge: 50.0% of all" and drawn.title(logits).startswith("merged against injected")
    assert "merge: holds" in picture.words and drawn.caption(picture) == proof().explanation()
    assert drawn.legend(drawn.panels(proof(exact=None).figure())[0]) == ["computed in bfloat16"]


def test_the_tasks_scores_stand_beside_the_weights() -> None:
    asked = incidents.load("validation", 2)
    right = [OfflineReply(one.first_reply(), one.second_reply()) for one in asked]
    rated = tuple(scores.from_replies(f"{way}, temperature 0", asked, right) for way in ("injected", "merged"))
    shown = proof(scores=rated)
    assert "injected, temperature 0" in str(shown) and "100.0%" in str(shown)
    assert "JSON compliance" in shown._repr_html_()
    task = drawn.panels(shown.figure())[2]
    assert [[bar.get_height() for bar in bars] for bars in task.containers] == [[100, 100], [100, 100]]
    assert drawn.legend(task) == [score.label for score in rated] and drawn.title(task) == "the task, % of 2 incidents"


def test_what_the_worker_answers_becomes_the_proof(base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = incidents.load("validation", 2)
    right = tuple(OfflineReply(one.first_reply(), one.second_reply(), 0.5) for one in asked)
    wrong = tuple(OfflineReply("", "", 0.5, 9) for _ in asked)
    shown = proof(forced=forced(0.99))
    measured = ModelDifference(**{field.name: getattr(shown, field.name) for field in fields(ModelDifference)})
    result = ProofResult(measured, injected=(right, right), merged=(right, wrong))

    def run(path: Path, request: dict[str, Any], **options: Any) -> dict[str, Any]:
        sent = parse(ProofRequest, json.loads(json.dumps(request)))
        assert (sent.base, sent.adapter, sent.merged) == (str(base), str(adapter), str(base))
        assert sent.conversations == (tuple(CONVERSATION),) and sent.task.temperatures == (0.0, 0.7) and len(sent.task.dialogues) == 2
        answer: dict[str, Any] = json.loads(json.dumps(asdict(result)))
        return answer

    monkeypatch.setattr(launch, "run", run)
    found = comparing.compare(base, adapter, base, [CONVERSATION], incidents=asked)
    assert (found.weights, found.forced, found.exact) == (shown.weights, shown.forced, shown.exact)
    assert [(score.label, score.hit_rate) for score in found.scores] == [
        ("injected, temperature 0", 1),
        ("merged, temperature 0", 1),
        ("injected, temperature 0.7", 1),
        ("merged, temperature 0.7", 0),
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return course_model.make(profile("tiny"), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    header = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    (folder / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    return folder


@pytest.fixture(autouse=True)
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "run", lambda *words, **options: pytest.fail("a worker was started"))


def test_what_cannot_be_compared_is_refused_before_anything_starts(base: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="nowhere is not there"):
        comparing.compare(base, adapter, tmp_path / "nowhere", [CONVERSATION])
    with pytest.raises(SettingError, match="is an adapter, not a model"):
        comparing.compare(base, adapter, adapter, [CONVERSATION])
    with pytest.raises(LabError, match="it has no adapter_config.json"):
        comparing.compare(base, base, base, [CONVERSATION])
    with pytest.raises(SettingError, match="has a reply to compare"):
        comparing.compare(base, adapter, base, [CONVERSATION[:1]])
    with pytest.raises(SettingError, match="temperatures"):
        comparing.compare(base, adapter, base, [CONVERSATION], temperatures=(-1,))


def test_a_truncated_adapter_is_named(base: Path, adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(LabError, match="adapter_model.safetensors cannot be read as safetensors: .*tensors end at byte"):
        comparing.compare(base, adapter, base, [CONVERSATION])
