"""The made models: whole folders, the right bytes, and a greedy answer that ends."""

import json
from pathlib import Path

import pytest

from labkit import course_model
from labkit.errors import ProfileError
from labkit.profiles import profile


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
    index = json.loads((tiny / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2 * profile("tiny").shape.parameters


def test_making_again_leaves_the_folder_alone(tiny: Path) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in tiny.iterdir()}
    course_model.make(profile("tiny"), tiny)
    assert {file.name: file.stat().st_mtime_ns for file in tiny.iterdir()} == before


def test_the_greedy_way_reasons_answers_and_ends() -> None:
    table = course_model._continuations()
    word, text = "\n", []
    for _ in range(100):
        word = max(table[word], key=lambda follower: table[word][follower])
        text.append(word)
        if word == course_model.STOP:
            break
    answer = "".join(text)
    assert answer.startswith("<think>The user") and "</think>\n\nvLLM keeps" in answer and answer.endswith("卡。<|im_end|>")


@pytest.mark.parametrize("start", course_model._continuations())
def test_no_greedy_way_goes_round_in_a_circle(start: str) -> None:
    table, word, seen = course_model._continuations(), start, set()
    while word != course_model.STOP:
        assert word not in seen
        seen.add(word)
        word = max(table[word], key=lambda follower: table[word][follower])


def test_merges_build_every_word_token() -> None:
    vocabulary = course_model.vocabulary()
    assert {left + right for left, right in course_model.merges()} == set(vocabulary) - set(course_model._byte_alphabet().values()) - set(
        course_model.SPECIAL
    )


def test_the_8b_shape_has_no_weights_and_the_long_context_of_the_real_model(tmp_path: Path) -> None:
    folder = course_model.make(profile("qwen3-8b-shape"), tmp_path / "shape")
    config = json.loads((folder / "config.json").read_text())
    assert not list(folder.glob("*.safetensors"))
    assert config["max_position_embeddings"] == 131072 and config["rope_scaling"]["factor"] == 4.0


def test_a_hub_model_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="downloaded"):
        course_model.make(profile("r1-qwen3-8b"), tmp_path / "x")
    assert not (tmp_path / "x").exists()
