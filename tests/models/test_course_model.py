"""The made models: the small one that is shipped is whole and what its profile says, old copies are replaced."""

import json
import math
from pathlib import Path

import drawn
import pytest

from labkit.common.errors import ProfileError
from labkit.models import course_model
from labkit.models.headers import Weights
from labkit.models.profiles import profile


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return course_model.make(profile("tiny"), tmp_path_factory.mktemp("models") / "tiny")


def test_the_folder_is_as_large_as_the_profile_says(tiny: Path) -> None:
    size = sum(file.stat().st_size for file in tiny.iterdir())
    assert abs(size - profile("tiny").bytes) < 0.01 * size


def test_every_tensor_is_in_the_shard_that_the_index_names(tiny: Path) -> None:
    from safetensors import safe_open

    index = json.loads((tiny / "model.safetensors.index.json").read_text())
    found = {}
    for shard in tiny.glob("*.safetensors"):
        with safe_open(shard, framework="numpy") as file:
            found |= dict.fromkeys(file.keys(), shard.name)
    assert found == index["weight_map"]


def test_parameters_are_counted(tiny: Path) -> None:
    shape, tensors = profile("tiny").shape, Weights.read(tiny).tensors
    index = json.loads((tiny / "model.safetensors.index.json").read_text())
    assert sum(math.prod(one.shape) for one in tensors.values()) == shape.parameters == index["metadata"]["total_size"] // 2
    assert {one.dtype for one in tensors.values()} == {"BF16"} and "lm_head.weight" not in tensors
    assert tensors["model.embed_tokens.weight"].shape == (shape.vocab, shape.hidden)
    assert len({name for name in tensors if name.endswith("q_proj.weight")}) == shape.layers


def test_the_weights_are_two_shards_of_which_neither_is_large() -> None:
    sizes = [file.stat().st_size for file in course_model.TRAINED.glob("*.safetensors")]
    assert len(sizes) == 2 and sum(sizes) <= 8_000_000 and max(sizes) < 0.6 * sum(sizes)


def test_the_shipped_texts_are_those_that_this_code_writes(tmp_path: Path) -> None:
    tiny = profile("tiny")
    course_model.write_texts(tmp_path, tiny.shape, tiny.context)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        assert (course_model.TRAINED / name).read_text() == (tmp_path / name).read_text(), name
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["chat_template"] == course_model.CHAT_TEMPLATE


def test_the_tokenizer_has_the_special_ones_first_and_shows_only_the_reasoning_marks() -> None:
    tokenizer = json.loads((course_model.TRAINED / course_model.TOKENIZER).read_text())
    ids = tokenizer["model"]["vocab"]
    assert [token["content"] for token in sorted(tokenizer["added_tokens"], key=lambda one: one["id"])] == list(course_model.SPECIAL)
    assert [ids[token] for token in course_model.SPECIAL] == list(range(len(course_model.SPECIAL)))
    assert len(ids) == profile("tiny").shape.vocab == max(ids.values()) + 1
    shown = {token["content"] for token in tokenizer["added_tokens"] if not token["special"]}
    assert shown == {course_model.THINK, course_model.THOUGHT}


def test_the_record_of_the_training_belongs_to_the_weights() -> None:
    record = json.loads((course_model.TRAINED / "loss.json").read_text())
    losses = [loss for _, loss in record["losses"]]
    assert record["parameters"] == profile("tiny").shape.parameters and losses[-1] < 0.05 < 1 < losses[0]
    assert record["command"] in (course_model.TRAINED / "README.md").read_text()


def test_a_folder_of_an_older_labkit_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text('{"num_hidden_layers": 2}')
    (folder / "lm_head.safetensors").write_bytes(b"old")
    course_model.make(profile("tiny"), folder)
    assert {file.name for file in folder.iterdir()} == {file.name for file in course_model.TRAINED.iterdir()}
    assert not list(tmp_path.glob(".*making*"))


def test_an_earlier_training_of_the_same_shape_is_replaced(tiny: Path) -> None:
    (tiny / "loss.json").write_text('{"parameters": 3803904}')
    (tiny / "model-00001-of-00002.safetensors").write_bytes(b"old")
    course_model.make(profile("tiny"), tiny)
    for file in course_model.TRAINED.iterdir():
        assert (tiny / file.name).read_bytes() == file.read_bytes()


def test_making_again_leaves_the_folder_alone(tiny: Path) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in tiny.iterdir()}
    course_model.make(profile("tiny"), tiny)
    assert {file.name: file.stat().st_mtime_ns for file in tiny.iterdir()} == before


def test_the_8b_shape_has_no_weights_and_the_long_context_of_the_real_model(tmp_path: Path) -> None:
    folder = course_model.make(profile("qwen3-8b-shape"), tmp_path / "shape")
    config = json.loads((folder / "config.json").read_text())
    assert not list(folder.glob("*.safetensors"))
    assert config["max_position_embeddings"] == 131072 and config["rope_scaling"]["factor"] == 4.0
    assert (folder / course_model.TOKENIZER).read_bytes() == (course_model.TRAINED / course_model.TOKENIZER).read_bytes()


def test_a_hub_model_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="downloaded"):
        course_model.make(profile("r1-qwen3-8b"), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_the_loss_of_its_training_is_drawn() -> None:
    record = json.loads((course_model.TRAINED / "loss.json").read_text())
    picture = course_model.loss_figure()
    (axes,) = drawn.panels(picture)
    assert drawn.points(axes) == [(step, pytest.approx(loss)) for step, loss in record["losses"]]
    assert set(axes.lines[1].get_ydata()) == {record["held_out"]} and drawn.legend(axes) == ["held out, at the end"]
    assert drawn.title(axes) == "loss: nats per token" and axes.get_xlabel() == "step" and axes.get_yscale() == "log"
    assert f"{record['parameters']:,} parameters" in picture.words and drawn.caption(picture) == picture.words
