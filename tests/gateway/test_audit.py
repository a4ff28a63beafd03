"""The audit log: masked, private, whole lines from many threads and processes, and a full disk."""

from __future__ import annotations

import json
import os
import resource
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from labkit.common.errors import LabError
from labkit.gateway.audit import EXCERPT, Audit


def test_no_text_of_a_record_reaches_the_disk_unmasked(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    audit.write(
        {"prompt": ["user: 13812345678"], "reply": {"li@example.com": "10.0.0.3"}, "path": Path("/home/li@example.com"), "seconds": 1.5}
    )
    text = audit.path.read_text()
    assert json.loads(text) == {"prompt": ["user: <mobile>"], "reply": {"<email>": "<ip>"}, "path": "/home/<email>", "seconds": 1.5}


def test_a_long_text_is_masked_before_it_is_cut(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    audit.write({"prompt": "x" * (EXCERPT - 6) + " 13812345678 " + "y" * 100})
    assert "1381" not in audit.path.read_text() and len(audit.read()[0]["prompt"]) < EXCERPT + 40


def test_the_file_is_private_also_when_it_was_not(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "audit.jsonl"
    Audit(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o644)
    Audit(path).write({"tenant": "a"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_line_break_in_a_text_makes_no_second_line(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    audit.write({"tenant": 'x\n{"tenant": "forged"}\u2028\r'})
    audit.write({"tenant": "\ud800"})
    assert len(audit.read()) == 2 and audit.path.read_bytes().count(b"\n") == 2 and audit.read()[0]["tenant"].startswith("x\n")


def test_lines_of_threads_and_processes_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    code = f"from labkit.gateway.audit import Audit; a = Audit({str(path)!r})\nfor n in range(100): a.write({{'who': 'process', 'n': n, 'text': 'z' * 1900}})"
    children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    audit = Audit(path)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: audit.write({"who": "thread", "n": n, "text": "w" * 1900}), range(100)))
    assert [child.wait() for child in children] == [0, 0]
    assert sorted(record["n"] for record in audit.read()) == sorted([*range(100)] * 3)


def test_a_disk_without_room_leaves_no_half_line(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: a part of the line fits, the rest does not."""
    path = tmp_path / "audit.jsonl"
    audit = Audit(path)
    audit.write({"n": 1})
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, limit[1]))
    try:
        with pytest.raises(LabError, match=r"audit\.jsonl cannot be written: File too large"):
            audit.write({"text": "w" * 1900})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    audit.write({"n": 2})
    assert [record["n"] for record in audit.read()] == [1, 2]


def test_after_a_torn_line_the_next_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text('{"tenant": "a"}\n{"tenant": "b", "pro')
    audit = Audit(path)
    audit.write({"tenant": "c"})
    assert [record.get("tenant", record.get("status")) for record in audit.read()] == ["a", "unreadable", "c"]


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_is_no_file_of_ours_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "audit.jsonl"
    {"folder": path.mkdir, "link": lambda: path.symlink_to(tmp_path / "elsewhere"), "pipe": lambda: os.mkfifo(path)}[kind]()
    with pytest.raises(LabError, match="cannot be written"):
        Audit(path)
    assert not (tmp_path / "elsewhere").exists()


def test_it_shows_itself_as_a_table(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    audit.write({"tenant": "team-a", "model": "one", "status": "ok", "prompt": ["system: x", "user: <b>why</b>"], "seconds": 0.5})
    assert "team-a" in str(audit) and "user: <b>why</b>" in str(audit) and "&lt;b&gt;why" in audit._repr_html_()
