"""Adapters in a real vLLM with the course model: one from the start, one more while it runs, who gets which, and what is refused.

The adapters are random and loud: what they say is noise, and each says something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

import labkit
from labkit.common.errors import AdapterError, LabError, StartFailed, UnknownTenant
from labkit.gateway.tenants import TenantRouter
from labkit.models.course_model import make
from labkit.models.profiles import profile
from labkit.models.random_weights import random_adapter
from labkit.serving.server import Server

from .conftest import ask

RANK = 8
LOUD = 100 * RANK
"""lora_alpha: the numbers of a random adapter are so small that nothing would be heard of them."""
TOKENS = 16
QUESTION = [{"role": "user", "content": "Why is the KV cache paged?"}]


@pytest.fixture(scope="module")
def adapters(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """name -> folder: three that fit the course model, one with too high a rank, one of a smaller model."""
    folder = tmp_path_factory.mktemp("adapters")
    base = make(profile("tiny"), profile("tiny").folder())
    made = {
        name: random_adapter(base, folder / name, rank=RANK, alpha=LOUD, seed=seed) for seed, name in enumerate(("one", "two", "three"), 1)
    }
    made["high"] = random_adapter(base, folder / "high", rank=32)
    made["small"] = shrink(random_adapter(base, folder / "small", rank=RANK, alpha=LOUD), 2)
    return made


def shrink(adapter: Path, part: int) -> Path:
    """Cut every matrix so that it belongs to a model of a `part` of the width."""
    from safetensors.numpy import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    tensors = {}
    for name, matrix in load_file(path).items():
        rows, columns = matrix.shape
        cut = matrix[:, : columns // part] if "lora_A" in name else matrix[: rows // part]
        tensors[name] = cut.copy()
    save_file(tensors, path)
    return adapter


@pytest.fixture(scope="module")
def server(home: Path, adapters: dict[str, Path]) -> Iterator[Server]:
    """One vLLM that starts with the adapter "one" and gets "two" while it runs."""
    started = labkit.serve(
        "vllm", "tiny", owner="kernel", max_num_seqs=8, hot_adapters=True, max_lora_rank=RANK, lora_modules=[f"one={adapters['one']}"]
    )
    started.load_adapter("two", adapters["two"])
    yield started
    started.stop()


def answer(server: Server, model: str, **options: Any) -> str:
    """What `model` says to QUESTION at temperature 0, whole."""
    with labkit.client(server) as client:
        reply = client.chat.completions.create(model=model, messages=QUESTION, temperature=0, max_tokens=TOKENS, **options)  # type: ignore[call-overload]
    return str(reply.choices[0].message.model_dump())


def test_both_are_listed(server: Server, adapters: dict[str, Path]) -> None:
    assert [(one.name, one.model, one.base, one.folder) for one in server.adapters()] == [
        (name, name, "tiny", str(adapters[name])) for name in ("one", "two")
    ]


def test_model_chooses_the_adapter(server: Server) -> None:
    assert len({answer(server, name) for name in ("tiny", "one", "two")}) == 3


def test_a_header_and_a_field_of_the_body_choose_nothing(server: Server) -> None:
    """What tutorials say. The request is answered by the base, and nothing says that the wish was not heard."""
    base = answer(server, "tiny")
    assert answer(server, "tiny", extra_headers={"X-LoRA-Adapter": "one"}) == base
    assert answer(server, "tiny", extra_body={"lora_name": "one"}) == base
    assert answer(server, "tiny", extra_body={"lora_path": "one", "adapter": "one"}) == base


def test_base_and_adapters_in_one_batch_answer_as_each_alone(server: Server) -> None:
    """vLLM's CPU build takes the last slot's adapter for the base in a mixed batch: `serve` keeps that slot empty."""
    names = ["tiny", "one", "two"] * 3
    alone = {name: answer(server, name) for name in set(names)}
    with ThreadPoolExecutor(len(names)) as pool:
        together = list(pool.map(lambda name: answer(server, name), names))
    assert together == [alone[name] for name in names]


def test_unloading_and_loading_again(server: Server, adapters: dict[str, Path]) -> None:
    server.load_adapter("three", adapters["three"])
    before = answer(server, "three")
    server.unload_adapter("three")
    assert server.adapters().names == ["one", "two"]
    with pytest.raises(openai.NotFoundError):
        answer(server, "three")
    with pytest.raises(AdapterError, match="No adapter 'three' is loaded; there is: one, two"):
        server.unload_adapter("three")
    server.load_adapter("three", adapters["three"])
    assert answer(server, "three") == before
    server.unload_adapter("three")


def test_what_does_not_fit_is_refused_before_the_engine_is_asked(server: Server, adapters: dict[str, Path], tmp_path: Path) -> None:
    for folder, cause in ((adapters["small"], "shapes differ"), (adapters["high"], "rank 32 is above"), (tmp_path, "no adapter folder")):
        with pytest.raises(LabError, match=cause):
            server.load_adapter("bad", folder)
    with pytest.raises(AdapterError, match="has an adapter 'one' already"):
        server.load_adapter("one", adapters["three"])
    assert server.adapters().names == ["one", "two"] and "name 'bad'" not in server.log.read_text()


def test_unlooked_at_the_engine_takes_an_adapter_of_another_model_and_refuses_only_the_rank(
    server: Server, adapters: dict[str, Path]
) -> None:
    with pytest.raises(AdapterError, match="rank 32, the server was started for 8"):
        server.load_adapter("bad", adapters["high"], check=False)
    server.load_adapter("bad", adapters["small"], check=False)
    server.unload_adapter("bad")


def test_the_engine_s_own_words_for_what_it_refuses(server: Server) -> None:
    """On these `hotloading` and its loopback tests rest."""
    load, unload = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
    status, content = ask(server, load, {"lora_name": "x", "lora_path": "/nowhere"})
    assert (status, content["error"]["message"]) == (404, "Loading lora x failed: No adapter found for /nowhere")
    status, content = ask(server, load, {"lora_name": "one", "lora_path": "/nowhere"})
    assert status == 400 and "has already been loaded" in content["error"]["message"]
    assert ask(server, unload, {"lora_name": "x"})[0] == 404
    assert ask(server, load, {"lora_name": "x", "lora_path": "/nowhere"}, key="sk-wrong")[0] == 401


def test_tenants_get_their_own_adapters_and_leave_a_masked_log(server: Server, tmp_path: Path) -> None:
    router = TenantRouter(server, {"team-a": "one", "team-b": "two", "team-c": None, "team-d": "three"}, audit=tmp_path / "audit.jsonl")
    options = {"temperature": 0, "max_tokens": TOKENS}
    names = ["team-a", "team-b", "team-c"] * 3
    with ThreadPoolExecutor(len(names)) as pool:
        replies = list(pool.map(lambda name: router.ask(name, QUESTION, **options), names))
    said = [(reply.reasoning, reply.answer) for reply in replies]
    assert said == said[:3] * 3 and len(set(said)) == 3
    router.ask("team-c", "Call 13812345678 or write to li@example.com", **options)
    with pytest.raises(AdapterError, match="'three'"):
        router.ask("team-d", QUESTION)
    with pytest.raises(UnknownTenant, match="team-a"):
        router.ask("team-x", QUESTION)
    records = router.audit.read()
    assert [record["status"] for record in records] == ["ok"] * 10 + ["refused"] * 2
    assert {(record["tenant"], record["model"]) for record in records[:9]} == {("team-a", "one"), ("team-b", "two"), ("team-c", "tiny")}
    assert all(record["output_tokens"] and record["seconds"] for record in records[:10])
    text = router.audit.path.read_text()
    assert "<mobile>" in text and "13812345678" not in text and "li@example.com" not in text


STARTS = {
    "missing": ("x=/nowhere", "no adapter at /nowhere"),
    "form": ("x", "not as name=folder"),
    "rank": ("x={high}", "rank 32, the server"),
}


@pytest.mark.parametrize("name", STARTS)
def test_adapters_that_hinder_a_start_are_explained(name: str, adapters: dict[str, Path], fails: Callable[..., StartFailed]) -> None:
    """Given as bare flags, which labkit passes on unlooked at."""
    words, cause = STARTS[name]
    fails("vllm", cause, extra=["--enable-lora", "--lora-modules", words.format(**adapters)])


def test_sglang_without_a_gpu_says_so_before_it_starts(home: Path, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_DEVICE", "cpu")
    with pytest.raises(LabError, match="needs a GPU for LoRA"):
        labkit.serve("sglang", "tiny", lora_paths=[f"one={adapters['one']}"])
