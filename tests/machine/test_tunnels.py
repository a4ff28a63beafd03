"""The commands that come out of a login line; that they work is tested with a real sshd."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from labkit.common.errors import SettingError
from labkit.machine.logins import Login
from labkit.machine.tunnels import local_ports, tunnel


@pytest.mark.parametrize("line", ["ssh my-box", "my-box", "my-box\n"])
def test_an_alias_leaves_the_rest_to_ssh_s_own_configuration(line: str) -> None:
    found = tunnel(line)
    assert found.login == Login("my-box") and found.words[-1] == "my-box" and "-p" not in found.words
    assert found.config.startswith("Host my-box\n") and "HostName" not in found.config


def test_identity_and_jump_host_are_kept_in_order() -> None:
    found = tunnel("ssh -i '~/my keys/id' -J hop@gate:22 -p 7 me@box -o StrictHostKeyChecking=accept-new")
    assert found.words[-6:] == ["~/my keys/id", "-J", "hop@gate:22", "-o", "StrictHostKeyChecking=accept-new", "me@box"]
    assert 'IdentityFile "~/my keys/id"\n    ProxyJump hop@gate:22\n    StrictHostKeyChecking accept-new\n' in found.config


@pytest.mark.parametrize(
    ("written", "posix", "powershell", "config"),
    [
        (r"C:\Users\me\.ssh\id", r"'C:\Users\me\.ssh\id'", r"C:\Users\me\.ssh\id", r"C:\Users\me\.ssh\id"),
        (r'"C:\my keys\id"', r"'C:\my keys\id'", r"'C:\my keys\id'", r'"C:\my keys\id"'),
        (r'''"C:\O'Neil\id"''', r"""'C:\O'"'"'Neil\id'""", r"'C:\O''Neil\id'", r'''"C:\O'Neil\id"'''),
        (r".\keys\lab.pem", r"'.\keys\lab.pem'", r".\keys\lab.pem", r".\keys\lab.pem"),
        (r"\\nas\k\id", r"'\\nas\k\id'", r"\\nas\k\id", "//nas/k/id"),
        (r"%USERPROFILE%\.ssh\id", "'~/.ssh/id'", r"$env:USERPROFILE\.ssh\id", "~/.ssh/id"),
        (r"$env:USERPROFILE\.ssh\id", "'~/.ssh/id'", r"$env:USERPROFILE\.ssh\id", "~/.ssh/id"),
        (r'"%USERPROFILE%\my keys\id"', "'~/my keys/id'", r'"$env:USERPROFILE\my keys\id"', '"~/my keys/id"'),
        (r"~\.ssh\id", "'~/.ssh/id'", r"$env:USERPROFILE\.ssh\id", "~/.ssh/id"),
        ("~/.ssh/id", "'~/.ssh/id'", "~/.ssh/id", "~/.ssh/id"),
        ("$HOME/.ssh/id", "'~/.ssh/id'", "~/.ssh/id", "~/.ssh/id"),
        ("keys/lab#1.pem", "'keys/lab#1.pem'", "'keys/lab#1.pem'", '"keys/lab#1.pem"'),
    ],
)
def test_a_key_s_path_in_each_shell(written: str, posix: str, powershell: str, config: str) -> None:
    found = tunnel(f"ssh -i {written} -p 7 root@box")
    assert f" -i {powershell} root@box" in found.powershell
    assert f"\n    IdentityFile {config}\n" in found.config
    assert shlex.split(found.command) == found.words
    assert f" -i {posix} root@box" in found.command


@pytest.mark.skipif(not shutil.which("ssh"), reason="needs ssh (apt-get install -y openssh-client)")
@pytest.mark.parametrize("key", [r"C:\my keys\id", r"C:\O'Neil\id", "/k/a b#c", r".\keys\lab.pem", r"C:\Users\me\.ssh\id"])
def test_ssh_reads_the_block_as_it_reads_the_command(key: str, tmp_path: Path) -> None:
    found = tunnel(f'ssh -i "{key}" -J me@hop:2222 -o ConnectTimeout=7 -p 7 root@10.0.0.7')
    (tmp_path / "config").write_text(found.config + "\n")
    block = subprocess.run(["ssh", "-G", "-F", tmp_path / "config", found.alias], capture_output=True, text=True, check=True).stdout
    words = [word for word in found.words if word != "-CNL"]
    line = subprocess.run([words[0], "-G", "-F", "/dev/null", "-CNL", *words[1:]], capture_output=True, text=True, check=True).stdout
    said = {"hostname", "user", "port", "proxyjump", "connecttimeout", "localforward", "exitonforwardfailure"}
    assert pick(block, said) == pick(line, said) and f"identityfile {key}" in block


def pick(shown: str, names: set[str]) -> set[str]:
    return {line for line in shown.splitlines() if line.partition(" ")[0] in names}


def test_what_the_line_sets_is_not_set_twice() -> None:
    found = tunnel("ssh -o ServerAliveInterval=60 -o ExitOnForwardFailure=no root@box")
    assert "ServerAliveInterval=30" not in found.command and "ServerAliveInterval 30" not in found.config
    assert "ExitOnForwardFailure=yes" in found.command and "ExitOnForwardFailure=no" not in found.command


@pytest.mark.parametrize(
    ("line", "known"),
    [
        ("ssh -p 46457 root@connect.nmb2.seetacloud.com", "[connect.nmb2.seetacloud.com]:46457"),
        ("ssh root@box", "box"),
        ("ssh -p 22 root@box", "box"),
        ("ssh -p 7 root@2001:db8::1", "[2001:db8::1]:7"),
    ],
)
def test_the_text_explains_what_ssh_says(line: str, known: str) -> None:
    text = tunnel(line, [(18080, 8080)]).text()
    for word in (
        "cannot listen to port: 18080",
        "netsh interface ipv4 show excludedportrange protocol=tcp",
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        f'ssh-keygen -R "{known}"\n',
        "administratively prohibited",
        "connect failed: Connection refused",
        "Permission denied (publickey,password)",
        "kex_exchange_identification",
        "Broken pipe",
    ):
        assert word in text


def test_a_password_is_dropped() -> None:
    assert "aB3" not in tunnel("ssh -p 46457 root@connect.nmb2.seetacloud.com\n密码 aB3/xyz==").text()


def test_the_command_for_one_port() -> None:
    words = "ssh -CNL 127.0.0.1:8080:127.0.0.1:8080 -o ExitOnForwardFailure=yes -o ServerAliveInterval=30 -o ServerAliveCountMax=3"
    assert tunnel("ssh -p 46457 root@connect.nmb2.seetacloud.com").command == f"{words} -p 46457 root@connect.nmb2.seetacloud.com"


def test_several_ports_and_another_local_one() -> None:
    command = tunnel("ssh root@h", [(18080, 8080), 8000]).command
    assert "127.0.0.1:18080:127.0.0.1:8080 -L 127.0.0.1:8000:127.0.0.1:8000" in command
    assert "LocalForward 127.0.0.1:8000 127.0.0.1:8000" in tunnel("ssh root@h", [8080, 8000]).config


def test_sharing_is_asked_for_and_warned_about() -> None:
    assert "-CNL " in tunnel("ssh root@h").command and "WARNING" not in tunnel("ssh root@h").text()
    shared = tunnel("ssh root@h", share=True)
    assert shared.words[1:3] == ["-CNgL", "8080:127.0.0.1:8080"] and "WARNING" in shared.text() and "GatewayPorts yes" in shared.config


def test_both_shells_get_the_same_words() -> None:
    found = tunnel('ssh -i "/home/O\'Neil x/key" root@h')
    assert shlex.split(found.command) == found.words
    assert "'/home/O''Neil x/key'" in found.powershell


@pytest.mark.parametrize("ports", [[], 0, 65536, "8080", [8080, 8080], [(1, 8080), (1, 8000)]])
def test_ports_that_cannot_be_are_refused(ports: object) -> None:
    with pytest.raises(SettingError):
        tunnel("ssh root@h", ports)  # type: ignore[arg-type]


def test_the_text_teaches_all_of_it() -> None:
    text = tunnel("ssh root@h").text()
    for word in ("PowerShell", "~/.ssh/config", "ExitOnForwardFailure", "18080", "28080", "curl", "Ctrl-C", "你自己的电脑"):
        assert word in text


def test_ports_to_try_exist() -> None:
    assert local_ports(8080) == [8080, 18080, 28080] and local_ports(60000) == [60000, 50000, 40000]


def test_the_zone_of_an_address_is_no_token_of_ssh_s_configuration() -> None:
    assert "HostName fe80::1%%eth0\n" in tunnel("ssh -p 2222 root@fe80::1%eth0").config
