"""The course models: the right one for each GPU, and shapes whose arithmetic is the engine's own."""

import sys

import pytest
from nvml_stand_in import GIB, Card, fake_nvml, memory

from labkit.common.errors import ProfileError
from labkit.models.profiles import profile, profiles


@pytest.mark.parametrize(
    ("gib", "name"), [(0, "tiny"), (6, "tiny"), (8, "r1-qwen-1.5b"), (16, "r1-qwen-1.5b"), (24, "r1-qwen3-8b"), (141, "r1-qwen3-8b")]
)
def test_auto_takes_the_largest_real_model_that_fits(gib: float, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABKIT_PROFILE", raising=False)
    assert profile("auto", gpu_gib=gib).name == name


def test_auto_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_PROFILE", "qwen3-8b-shape")
    assert profile("auto", gpu_gib=0).name == "qwen3-8b-shape"


def test_an_unknown_profile_names_those_that_exist() -> None:
    with pytest.raises(ProfileError, match="r1-qwen3-8b"):
        profile("r1-qwen3-80b")


def test_kv_bytes_agree_with_vllm_on_an_h200() -> None:
    """111.8 GiB for the KV cache gave 814,112 tokens in vLLM 0.26.0's log of the 8B shape."""
    per_token = profile("r1-qwen3-8b").shape.kv_bytes_per_token()
    assert per_token == 147_456 and abs(111.8 * 2**30 / per_token / 814_112 - 1) < 0.001


@pytest.mark.parametrize("name", ["r1-qwen-1.5b", "r1-qwen3-8b"])
def test_sizes_agree_with_parameters(name: str) -> None:
    model = profile(name)
    assert 0 <= model.bytes / (2 * model.shape.parameters) - 1 < 0.01


def test_parameters_agree_with_the_shape() -> None:
    shape = profile("r1-qwen3-8b").shape
    attention = shape.hidden * shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads) + 2 * shape.head_dim
    layer = attention + 3 * shape.hidden * shape.intermediate + 2 * shape.hidden
    assert shape.parameters == shape.layers * layer + 2 * shape.vocab * shape.hidden + shape.hidden


def test_every_profile_is_whole() -> None:
    for model in profiles().values():
        assert model.weights in ("trained", "dummy", "hub") and model.max_model_len <= model.context and "/" in model.modelscope


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 0), "float16"), ((7, 5), "float16"), ((8, 0), "bfloat16"), ((12, 0), "bfloat16"), (None, "bfloat16")]
)
def test_auto_is_float16_where_the_card_has_no_bfloat16(
    capability: tuple[int, int] | None, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("CUDA_VISIBLE_DEVICES", "LABKIT_PROFILE", "LABKIT_DEVICE"):
        monkeypatch.delenv(variable, raising=False)
    card = Card(memory_v2=memory(0, 24 * GIB), CudaComputeCapability=capability)
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([card]))
    assert (profile().name, profile().dtype) == ("r1-qwen3-8b", dtype)


def test_of_two_cards_the_older_decides_on_the_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("CUDA_VISIBLE_DEVICES", "LABKIT_PROFILE", "LABKIT_DEVICE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([Card(), Card(UUID="GPU-2", CudaComputeCapability=(7, 5))]))
    assert profile().dtype == "float16"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert profile().dtype == "bfloat16"
