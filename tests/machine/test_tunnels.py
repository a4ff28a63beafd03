"""The commands that come out of a login line; that they work is tested with a real sshd."""

from __future__ import annotations

import shlex

import pytest

from labkit.common.errors import SettingError
from labkit.machine.logins import Login, read_login
from labkit.machine.tunnels import Tunnel, local_ports, tunnel


@pytest.mark.parametrize("line", ["ssh my-box", "my-box", "my-box\n"])
def test_an_alias_leaves_the_rest_to_ssh_s_own_configuration(line: str) -> None:
    found = tunnel(line)
    assert found.login == Login("my-box") and found.words[-1] == "my-box" and "-p" not in found.words
    assert found.config.startswith("Host my-box\n") and "HostName" not in found.config


def test_identity_and_jump_host_are_kept_in_order() -> None:
    login = read_login("ssh -i '~/my keys/id' -J hop@gate:22 -p 7 me@box -o StrictHostKeyChecking=accept-new")
    assert login.options == ("-i", "~/my keys/id", "-J", "hop@gate:22", "-o", "StrictHostKeyChecking=accept-new")
    assert 'IdentityFile "~/my keys/id"\n' in Tunnel(login).config and "StrictHostKeyChecking accept-new" in Tunnel(login).config


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


@pytest.mark.parametrize("ports", [[], 0, 65536, [8080, 8080], [(1, 8080), (1, 8000)]])
def test_ports_that_cannot_be_are_refused(ports: object) -> None:
    with pytest.raises(SettingError):
        tunnel("ssh root@h", ports)  # type: ignore[arg-type]


def test_the_text_teaches_all_of_it() -> None:
    text = tunnel("ssh root@h").text()
    for word in ("PowerShell", "~/.ssh/config", "ExitOnForwardFailure", "18080", "28080", "curl", "Ctrl-C", "你自己的电脑"):
        assert word in text


def test_ports_to_try_exist() -> None:
    assert local_ports(8080) == [8080, 18080, 28080] and local_ports(60000) == [60000, 50000, 40000]
