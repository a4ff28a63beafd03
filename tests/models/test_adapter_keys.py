"""Keys as PEFT writes them, and as wrappers and trainers leave them."""

from __future__ import annotations

import itertools

import pytest

from labkit.models.adapter_keys import WRAPPERS, Key, take_apart

Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        (f"base_model.model.{Q}.lora_A.weight", Key(Q, "lora_A")),
        (f"base_model.model.{Q}.lora_B.bias", Key(Q, "lora_B", bias=True)),
        (f"base_model.model.{Q}.lora_A.default.weight", Key(Q, "lora_A", adapter="default")),
        ("base_model.model.model.embed_tokens.lora_embedding_A", Key("model.embed_tokens", "lora_embedding_A")),
        (f"base_model.model.{Q}.lora_magnitude_vector", Key(Q, "lora_magnitude_vector")),
        (f"{Q}.lora_B.weight", Key(Q, "lora_B", bare=True)),
        ("base_model.model.lm_head.weight", Key("lm_head.weight")),
        ("base_model.model.lm_head.base_layer.weight", Key("lm_head.weight")),
        ("base_model.model.lm_head.modules_to_save.weight", Key("lm_head.weight", copy="modules_to_save")),
        ("base_model.model.lm_head.modules_to_save.default.weight", Key("lm_head.weight", copy="modules_to_save")),
        ("base_model.model.lm_head.original_module.weight", Key("lm_head.weight", copy="original_module")),
        ("base_model.model.transformer.h.0.attn.c_attn.lora_A.weight", Key("transformer.h.0.attn.c_attn", "lora_A")),
    ],
)
def test_what_a_key_is_about(key: str, meant: Key) -> None:
    assert take_apart(key) == meant


@pytest.mark.parametrize("wrappers", [*itertools.permutations(WRAPPERS[:3], 2), *((wrapper,) for wrapper in WRAPPERS)])
@pytest.mark.parametrize("place", range(6))
def test_wrappers_come_off_at_every_level(wrappers: tuple[str, ...], place: int) -> None:
    parts = f"base_model.model.{Q}.lora_A.weight".split(".")
    key = take_apart(".".join([*parts[:place], *wrappers, *parts[place:]]))
    assert (key.module, key.part, set(key.wrappers)) == (Q, "lora_A", set(wrappers))


@pytest.mark.parametrize("front", ["module.", "module.module.", "_orig_mod.module.", "module._forward_module.", "pretrained_model."])
def test_what_stands_before_the_prefix_is_a_wrapper(front: str) -> None:
    key = take_apart(f"{front}base_model.model.{Q}.lora_A.weight")
    assert key.module == Q and key.wrappers


def test_a_module_of_that_name_inside_a_model_stays() -> None:
    assert take_apart("base_model.model.encoder.module.0.proj.lora_A.weight").module == "encoder.module.0.proj"
