"""What is said of a failed download, from the evidence alone: true words, and advice that can help."""

import errno
from pathlib import Path

import pytest

from labkit.common.errors import LabError
from labkit.hub import lfs_trace, listings, printed
from labkit.hub.evidence import Evidence, Link, from_error
from labkit.hub.failures import classify
from labkit.hub.patience import span
from labkit.hub.variables import check
from labkit.hub.verdicts import Asked
from labkit.models.listing import path_fault

HF = Asked("huggingface", "Hugging Face", "https://hf-mirror.com", "owner/model", "/data/model", mirror=True)
SHARD = "model-00002-of-00002.safetensors"


def told(*links: Link, busy: float | None = None, asked: Asked = HF) -> tuple[str, str, bool]:
    failure = classify(Evidence(tuple(links), busy), asked)
    return failure.cause, failure.fix, failure.again


@pytest.mark.parametrize(
    ("status", "file", "cause", "fix"),
    [
        (410, "", "was taken away (HTTP 410)", "another source"),
        (410, SHARD, f"what it lists (410): hf-mirror.com lacks {SHARD}", "another source"),
        (404, "", "has no model owner/model (HTTP 404)", "typing error"),
        (507, SHARD, "is in trouble (HTTP 507)", "some minutes"),
        (509, "", "is in trouble (HTTP 509)", "some minutes"),
        (511, "", "network wants a login", "web page in a browser"),
        (403, SHARD, f"lists {SHARD} of owner/model and does not give it to this machine", "terms"),
        (401, SHARD, "wants you to log in", "HF_TOKEN"),
        (400, SHARD, f"refused {SHARD} of owner/model with HTTP 400", "Try again later"),
        (405, "", "refused owner/model with HTTP 405", "HF_ENDPOINT"),
        (416, SHARD, f"no such part of {SHARD} (HTTP 416)", "another source"),
    ],
)
def test_an_answer_is_told_by_its_own_number(status: int, file: str, cause: str, fix: str) -> None:
    said, advice, _ = told(Link("Answer", status=status, file=file))
    assert cause in said and fix in advice and f"{status}" in said
    assert "Check the model's name" not in advice or not file or status == 401, "the list was given: the name is right"


def test_a_clock_that_is_wrong_is_no_missing_login() -> None:
    body = "<?xml version='1.0'?><Error><Code>RequestTimeTooSkewed</Code><Message>The difference is too large.</Message></Error>"
    cause, fix, again = told(Link("Answer", status=403, file=SHARD, body=body))
    assert "of another time" in cause and "clock" in fix and "token" not in fix and not again


@pytest.mark.parametrize(
    ("seconds", "says"),
    [(1, "another 1 s"), (200, "another 3 min"), (3600, "alone for 60 min"), (86400, "alone for 24 h"), (1e12, "more than a year")],
)
def test_how_long_a_busy_hub_wants_is_said_so_that_it_can_be_true(seconds: float, says: str) -> None:
    cause, fix, _ = told(Link("Answer", status=429), busy=seconds)
    assert says in cause and ("waited for" in cause) == (seconds < 300)
    assert ("another day" in fix) == (seconds >= 86400)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.6, "1 s"), (89, "89 s"), (90, "2 min"), (7199, "120 min"), (7200, "2 h"), (200_000, "2 days")]
)
def test_a_span_of_time_is_said_as_people_say_it(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_a_gateway_s_error_behind_a_proxy_names_both() -> None:
    asked = Asked("huggingface", "Hugging Face", "https://huggingface.co", "owner/model", proxy="http://127.0.0.1:7890")
    cause, _, _ = told(Link("Answer", status=502, host="huggingface.co"), asked=asked)
    assert "huggingface.co or the proxy http://127.0.0.1:7890 is in trouble (HTTP 502)" in cause


@pytest.mark.parametrize(
    ("name", "words", "cause"),
    [
        ("ProxyError", "407 Proxy Authentication Required", "The proxy that is set wants a name and a password (HTTP 407)."),
        (
            "ProxyError",
            "Tunnel connection failed: 407 Proxy Authentication Required",
            "The proxy that is set wants a name and a password (HTTP 407).",
        ),
        ("gaierror", "Could not resolve proxy: p.invalid", "The proxy's name cannot be looked up."),
    ],
)
def test_a_proxy_that_only_the_client_knows_leaves_no_hole(name: str, words: str, cause: str) -> None:
    """git's own http.proxy, or one of the system's: no variable names it."""
    assert told(Link(name, words=words))[0] == cause


def test_behind_a_proxy_a_name_that_nobody_knows_is_the_proxys() -> None:
    asked = Asked("huggingface", "Hugging Face", "https://huggingface.co", "owner/model", proxy="http://no-such-proxy.invalid:80")
    cause, fix, again = told(Link("gaierror", words="Name or service not known"), asked=asked)
    assert cause == "The proxy's name cannot be looked up: http://no-such-proxy.invalid:80." and "http_proxy" in fix and not again


@pytest.mark.parametrize(
    ("name", "words", "says"),
    [
        ("JSONDecodeError", "Expecting value: line 1 column 1 (char 0)", "no JSON where a hub answers JSON"),
        ("LocalEntryNotFoundError", "so it does not seem to be served by a Hugging Face Hub endpoint", "as no hub of Hugging Face does"),
        ("InvalidSchema", "No connection adapters were found for 'ftp://x'", "an address that the client cannot ask"),
    ],
)
def test_what_no_hub_would_answer_is_named(name: str, words: str, says: str) -> None:
    cause, fix, _ = told(Link(name, "client", words))
    assert says in cause and fix


@pytest.mark.parametrize(
    ("line", "number", "path"),
    [
        ('cannot write data to temporary file "/d/m/x": write /d/m/x: no space left on device', errno.ENOSPC, "/d/m/x"),
        ("error: could not lock config file /d/.git/config: No space left on device", errno.ENOSPC, ""),
        ("fatal: unable to create '/d/my models/x': Read-only file system", errno.EROFS, "/d/my models/x"),
    ],
)
def test_the_path_in_gits_words_is_a_path(line: str, number: int, path: str) -> None:
    link = printed.from_git(line).links[0]
    assert (link.number, link.path) == (number, path)


def test_of_two_paths_the_one_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "draft").write_text("")
    (tmp_path / "target").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        (tmp_path / "draft").rename(tmp_path / "target")
    assert f"at {tmp_path}/target: a folder is where" in classify(from_error(caught.value), HF).cause


def test_a_file_on_the_way_to_a_folder_is_named_itself(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError) as caught:
        (tmp_path / "file" / "below" / "x").write_text("")
    assert f"at {tmp_path}/file: a file is where a folder is needed" in classify(from_error(caught.value), HF).cause


TRACE = """12:00:00.100000 http.c:756              <= Recv header: HTTP/1.1 401 Unauthorized
12:00:00.200000 http.c:756              <= Recv header: HTTP/1.1 429 Too Many Requests
12:00:00.200000 http.c:756              <= Recv header: Retry-After: 17
12:00:00.200000 http.c:756              <= Recv header: Authorization-Hint: secret
fatal: unable to access 'http://h/m.git/': The requested URL returned error: 429
"""


def test_gits_own_account_gives_what_its_words_leave_out() -> None:
    words, answer = lfs_trace.of_git(TRACE, "h")
    assert words == TRACE.splitlines(keepends=True)[-1]
    assert answer and (answer.status, dict(answer.headers)) == (429, {"retry-after": "17"})
    assert lfs_trace.of_git(TRACE.replace("429", "200"), "h")[1] is None


@pytest.mark.parametrize("files", ["[null]", "[{}]", "[1]", '"x"', "{}"])
def test_rows_of_a_list_that_are_none_are_a_clear_error(files: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    monkeypatch.setattr(listings.Questions, "ask", lambda self, address: (json.loads(f'{{"Code": 200, "Data": {{"Files": {files}}}}}'), ""))
    with pytest.raises(LabError, match="list"):
        listings.modelscope("http://127.0.0.1:9", "owner/model")


@pytest.mark.parametrize("path", ["safe\u202egnp.exe", "a\u200bb.json", "a\u2028b", "a\ufeffb"])
def test_a_sign_that_is_not_seen_is_in_no_path(path: str) -> None:
    assert "not seen" in path_fault(path)


@pytest.mark.parametrize("value", ["http://proxy:port", "http://[::1", "http://a:1:2", "http://:80"])
def test_a_proxy_that_is_no_address_is_named_by_its_variable(value: str) -> None:
    with pytest.raises(LabError, match="http_proxy=") as caught:
        check({"http_proxy": value}, proxy=True)
    assert "unset http_proxy" in caught.value.fix
    check({"http_proxy": "http://[::1]:7890", "https_proxy": "me:pw@10.0.0.1:80/"}, proxy=True)


def test_a_page_that_git_takes_for_an_empty_repository_is_named() -> None:
    cause, fix, again = told(*printed.from_git("fatal: couldn't find remote ref HEAD").links)
    assert "shows git no branch" in cause and "page of a proxy" in cause and "proxy=False" in fix and not again


def test_a_port_that_begins_as_a_status_is_none() -> None:
    (link,) = printed.from_git("error: failed to fetch some objects from 'http://127.0.0.1:40797/m.git/info/lfs'").links
    assert (link.type, link.status, link.host) == ("git", 0, "127.0.0.1:40797")
