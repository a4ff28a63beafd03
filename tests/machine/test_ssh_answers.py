"""What the catalogue knows of ssh's own messages: real lines find one row, and what ssh says here is among them."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

import labkit

FILE = Path(labkit.__file__).parent / "failures" / "catalogue" / "ssh.toml"
ROWS: list[dict[str, Any]] = tomllib.loads(FILE.read_text(encoding="utf-8"))["failure"]
REAL = [
    # whole outputs from public threads, and the row that explains each line that one explains
    (
        "bind [127.0.0.1]:8002: Permission denied\nchannel_setup_fwd_listener_tcpip: cannot listen to port: 8002\n"
        "Could not request local forwarding.",
        ["ssh-port-reserved", "ssh-port-not-had", "ssh-port-not-had"],
    ),
    ("bind [127.0.0.1]:443: Permission denied", ["ssh-port-privileged"]),
    ("bind [127.0.0.1]:1023: Permission denied", ["ssh-port-privileged"]),
    ("bind [127.0.0.1]:1024: Permission denied", ["ssh-port-reserved"]),
    (
        "@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@\n"
        "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\n"
        "Offending RSA key in /Users/me/.ssh/known_hosts:15\n"
        "Host key for [connect.nmb2.seetacloud.com]:46457 has changed and you have requested strict checking.\n"
        "Host key verification failed.",
        ["ssh-host-key-changed"] * 3 + ["ssh-host-key-refused"],
    ),
    ("debug1: x\nchannel 3: open failed: administratively prohibited:\ndebug1: y", ["ssh-forwarding-forbidden"]),
    (
        "channel 0: open failed: administratively prohibited: open failed\nstdio forwarding failed\n"
        "kex_exchange_identification: Connection closed by remote host",
        ["ssh-forwarding-forbidden", "ssh-jump-ends", "ssh-closed-at-once"],
    ),
    (
        "channel 0: open failed: connect failed: Connection refused\nstdio forwarding failed\n"
        "kex_exchange_identification: Connection closed by remote host",
        ["ssh-jump-ends", "ssh-jump-ends", "ssh-closed-at-once"],
    ),
    ("channel 2: open failed: connect failed: Connection refused", ["ssh-nobody-there"]),
    (
        "No ED25519 host key is known for [h.example]:22 and you have requested strict checking.\nHost key verification failed.",
        ["ssh-host-key-strict", "ssh-host-key-refused"],
    ),
    (
        "kex_exchange_identification: Connection closed by remote host\nConnection closed by 52.69.186.44 port 22",
        ["ssh-closed-at-once", "ssh-closed-at-once"],
    ),
    (
        "Bad permissions. Try removing permissions for user: BUILTIN\\\\Users (S-1-5-32-545) on file C:/ProgramData/bbs-agent/ssh_key.\n"
        "@         WARNING: UNPROTECTED PRIVATE KEY FILE!          @\n"
        "Permissions for 'C:/ProgramData/bbs-agent/ssh_key' are too open.\n"
        "This private key will be ignored.\n"
        'Load key "C:/ProgramData/bbs-agent/ssh_key": bad permissions\n'
        "me@192.168.1.200: Permission denied (publickey).",
        ["ssh-key-too-open"] * 5 + ["ssh-denied-key"],
    ),
    (
        'Load key "/home/me/.ssh/id_ecdsa.pub": error in libcrypto\nuser@1.2.3.4: Permission denied (publickey).',
        ["ssh-key-not-read", "ssh-denied-key"],
    ),
    (
        "OpenSSH_for_Windows_7.7p1, LibreSSL 2.6.5\nBad owner or permissions on C:\\\\Users\\\\DELL/.ssh/config",
        ["ssh-config-too-open"],
    ),
    ("CreateProcessW failed error:2\nposix_spawn: No such file or directory", ["ssh-jump-on-windows"] * 2),
    (
        "Corrupted MAC on input.\nssh_dispatch_run_fatal: Connection to 128.186.122.109 port 22: message authentication code incorrect",
        ["ssh-broken-packets"] * 2,
    ),
    ("root@10.0.0.7's password: \nPermission denied, please try again.", ["ssh-denied-password"]),
]


def rows_of(line: str) -> list[str]:
    return [row["id"] for row in ROWS if "message" in row and re.search(row["message"], line)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_a_row_explains_its_own_examples_alone(row: dict[str, Any]) -> None:
    assert ("message" in row) == bool(row.get("example"))
    for line in row.get("example", []):
        assert rows_of(line) == [row["id"]], line


@pytest.mark.parametrize(("printed", "wanted"), REAL)
def test_what_others_met_finds_its_row(printed: str, wanted: list[str]) -> None:
    found = [rows_of(line) for line in printed.splitlines()]
    assert [ids for ids in found if ids] == [[name] for name in wanted]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_a_row_says_the_same_in_both_languages(row: dict[str, Any]) -> None:
    assert row["section"] == "tunnel" and row.get("said_by", ["ssh"]) == ["ssh"]
    groups = set(re.compile(row.get("message", "")).groupindex)
    for part in ("see", "cause", "fix"):
        english, chinese = row[part]["en"], row[part]["zh"]
        assert sorted(re.findall(r"`[^`]+`", english)) == sorted(re.findall(r"`[^`]+`", chinese)), part
        assert set(re.findall(r"(?<!\$)\{(\w+)\}", english)) == set(re.findall(r"(?<!\$)\{(\w+)\}", chinese)) <= groups
        assert english and re.search(r"[\u3001-\u9fff]", chinese + "中" * (part == "see"))


@pytest.mark.skipif(not shutil.which("ssh"), reason="needs ssh (apt-get install -y openssh-client)")
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["-p", "1", "127.0.0.1"], "ssh-refused"),
        (["no-such-machine.invalid"], "ssh-name-unknown|ssh-no-names"),
        (["-i", "/no/such/key", "-p", "1", "127.0.0.1"], "ssh-key-not-there"),
        (["-L", "127.0.0.1:8080:127.0.0.1", "box"], "ssh-forwarding-misspelt"),
        (["-o", "Hostnam=x", "box"], "ssh-config-misspelt"),
        (["-o", "IdentityFile=%USERPROFILE%/id", "-p", "1", "127.0.0.1"], "ssh-path-variable|ssh-refused"),
    ],
)
def test_what_ssh_says_here_is_explained(words: list[str], wanted: str) -> None:
    ran = subprocess.run(["ssh", "-F", "/dev/null", "-o", "BatchMode=yes", *words], capture_output=True, text=True, timeout=60, check=False)
    found = {name for line in ran.stderr.splitlines() for name in rows_of(line)}
    assert found & set(wanted.split("|")), ran.stderr
