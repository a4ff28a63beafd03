"""Routing: each tenant gets its own adapter or an error, nothing a tenant sends changes that, and every request is logged."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from adapter_server import AdapterServer, adapter_server

from labkit.common.errors import AdapterError, LabError, SettingError, UnknownTenant
from labkit.engines import ENGINES
from labkit.gateway.audit import Audit
from labkit.gateway.tenants import TenantRouter

TENANTS = {"team-a": "one", "team-b": None, "team-c": "gone"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AdapterServer]:
    with adapter_server(tmp_path) as running:
        yield running


@pytest.fixture
def router(server: Any, tmp_path: Path) -> TenantRouter:
    return TenantRouter(server, TENANTS, audit=tmp_path / "audit.jsonl")


def asked(server: AdapterServer) -> list[dict[str, Any]]:
    return [body for path, body, _ in server.http.seen if path == "/v1/chat/completions"]


def test_each_tenant_gets_its_own_model(router: TenantRouter) -> None:
    assert router.ask("team-a", "why?").answer == "one heard: why?"
    assert router.ask("team-b", "why?").answer == "tiny heard: why?"
    assert (router.model("team-a"), router.model("team-b")) == ("one", "tiny")


def test_sglang_is_asked_in_its_own_words(router: TenantRouter, server: AdapterServer) -> None:
    server.be(ENGINES["sglang"])
    assert router.ask("team-a", "why?").answer == "tiny:one heard: why?"


def test_an_unknown_tenant_is_told_which_there_are_and_nothing_is_sent(router: TenantRouter, server: AdapterServer) -> None:
    with pytest.raises(UnknownTenant, match="'team-x'; known are: team-a, team-b, team-c") as caught:
        router.ask("team-x", "why?")
    assert not asked(server) and f"{TenantRouter.__name__}(server, {{tenant: adapter}})" in caught.value.fix


def test_an_adapter_that_is_not_loaded_is_an_error_before_anything_is_sent(router: TenantRouter, server: AdapterServer) -> None:
    with pytest.raises(AdapterError, match="No adapter 'gone' is loaded; there is: one"):
        router.ask("team-c", "why?")
    del server.http.loaded["one"]
    with pytest.raises(AdapterError, match="there is: none"):
        router.ask("team-a", "why?")
    assert not asked(server)


@pytest.mark.parametrize(
    "options",
    [
        {"model": "one"},
        {"stream": True},
        {"extra_body": {"model": "one"}},
        {"extra_body": {"lora_path": "one"}},
        {"extra_body": {"messages": []}},
        {"extra_body": {"stream": True}},
    ],
)
def test_no_option_of_a_tenant_chooses_the_model(router: TenantRouter, server: AdapterServer, options: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="A tenant may not choose"):
        router.ask("team-b", "why?", **options)
    assert not asked(server) and router.audit.read()[-1]["status"] == "refused"


@pytest.mark.parametrize(
    "messages", [[], [{"role": "assistant", "content": "x"}], [{"role": "user", "content": [{"type": "text", "text": "x"}]}]]
)
def test_what_is_no_question_is_refused(router: TenantRouter, server: AdapterServer, messages: list[Any]) -> None:
    with pytest.raises(SettingError, match="no question"):
        router.ask("team-a", messages)
    assert not asked(server)


def test_options_and_earlier_turns_reach_the_engine(router: TenantRouter, server: AdapterServer) -> None:
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "3"},
    ]
    router.ask("team-a", turns, max_tokens=9, extra_body={"top_k": 4}, extra_headers={"X-Own": "1"})
    body, headers = asked(server)[0], server.http.seen[-1][2]
    assert body["messages"] == turns and (body["max_tokens"], body["top_k"], body["model"]) == (9, 4, "one")
    assert headers["X-Own"] == "1" and headers["X-Request-Id"] == router.audit.read()[0]["request"]


def test_every_request_leaves_one_masked_line(router: TenantRouter, server: AdapterServer, tmp_path: Path) -> None:
    router.ask("team-a", "call 13812345678")
    server.http.broken = True
    with pytest.raises(openai.InternalServerError):
        router.ask("team-b", "write to li@example.com")
    with pytest.raises(UnknownTenant):
        router.ask("li@example.com", "10.0.0.3 is down")
    good, failed, refused = router.audit.read()
    assert (good["status"], good["tenant"], good["adapter"], good["model"]) == ("ok", "team-a", "one", "one")
    assert (good["prompt_tokens"], good["output_tokens"], good["finish"]) == (7, 5, "stop") and good["seconds"] >= 0
    assert good["prompt"] == ["user: call <mobile>"] and good["reply"] == "one heard: call <mobile>" and good["error"] == ""
    assert (failed["status"], failed["model"]) == ("failed", "tiny") and "EngineCore" in failed["error"]
    assert (refused["status"], refused["tenant"]) == ("refused", "<email>") and refused["error"].startswith("UnknownTenant")
    text = (tmp_path / "audit.jsonl").read_text()
    assert not [secret for secret in ("13812345678", "li@example.com", "10.0.0.3", server.key) if secret in text]
    assert len({record["request"] for record in router.audit.read()}) == 3


def test_a_reply_that_cannot_be_logged_is_withheld(router: TenantRouter, tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").unlink()
    (tmp_path / "audit.jsonl").mkdir()
    with pytest.raises(LabError, match="audit log"):
        router.ask("team-a", "why?")


def test_many_threads_get_their_own_answers(router: TenantRouter) -> None:
    names = ["team-a", "team-b"] * 20
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda name: router.ask(name, "why?").answer, names))
    assert answers == ["one heard: why?", "tiny heard: why?"] * 20 and len(router.audit.read()) == 40


def test_several_routers_may_share_a_log_and_there_is_a_default(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    log = TenantRouter(server, {}).audit
    assert log.path == tmp_path / "home" / "logs" / "audit" / "vllm.jsonl"
    assert TenantRouter(server, TENANTS, audit=log).audit is log and isinstance(log, Audit)


def test_it_shows_its_table(router: TenantRouter) -> None:
    assert "team-a -> one" in str(router) and "team-b -> tiny (base)" in router._repr_html_().replace("&gt;", ">")
