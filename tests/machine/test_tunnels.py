"""Login lines as they are really pasted, and the commands that come out; that they work is tested with a real sshd."""

from __future__ import annotations

import shlex

import pytest

from labkit.common.errors import SettingError
from labkit.machine.tunnels import Login, Tunnel, local_ports, read_login, tunnel

AUTODL = Login("connect.nmb2.seetacloud.com", "root", 46457)


@pytest.mark.parametrize(
    "line",
    [
        "ssh -p 46457 root@connect.nmb2.seetacloud.com",
        "ssh root@connect.nmb2.seetacloud.com -p 46457",
        "ssh -p46457 root@connect.nmb2.seetacloud.com",
        "ssh -l root -p 46457 connect.nmb2.seetacloud.com",
        "ssh -o Port=46457 -oUser=root connect.nmb2.seetacloud.com",
        "  $ ssh  -p\u00a046457\u3000root@connect.nmb2.seetacloud.com  ",
        "登录指令 ssh -p 46457 root@connect.nmb2.seetacloud.com",
        "ssh -p 46457 root@connect.nmb2.seetacloud.com\n密码 aB3/xyz==",
        "密码: ssh3cret!\nssh -p 46457 root@connect.nmb2.seetacloud.com",
        "ssh.exe -p 46457 root@connect.nmb2.seetacloud.com",
        "ssh -CNg -L 6006:127.0.0.1:6006 root@connect.nmb2.seetacloud.com -p 46457",
        "ssh -CNgp 46457 root@connect.nmb2.seetacloud.com",
        "ssh://root@connect.nmb2.seetacloud.com:46457",
        "root@connect.nmb2.seetacloud.com -p 46457",
        "`ssh -p 46457 root@connect.nmb2.seetacloud.com`",
    ],
)
def test_every_form_of_one_login(line: str) -> None:
    assert read_login(line) == AUTODL


@pytest.mark.parametrize(
    ("line", "host", "port"),
    [
        ("ssh -p 22 root@2001:db8::1", "2001:db8::1", 22),
        ("ssh root@[2001:db8::1] -p 7022", "2001:db8::1", 7022),
        ("ssh://root@[2001:DB8::1]:7022", "2001:db8::1", 7022),
        ("ssh root@fe80::1%eth0", "fe80::1%eth0", 0),
        ("ssh root@10.0.0.7", "10.0.0.7", 0),
    ],
)
def test_addresses(line: str, host: str, port: int) -> None:
    assert read_login(line) == Login(host, "root", port)


@pytest.mark.parametrize("line", ["ssh my-box", "my-box", "my-box\n"])
def test_an_alias_leaves_the_rest_to_ssh_s_own_configuration(line: str) -> None:
    found = tunnel(line)
    assert found.login == Login("my-box") and found.words[-1] == "my-box" and "-p" not in found.words
    assert found.config.startswith("Host my-box\n") and "HostName" not in found.config


def test_identity_and_jump_host_are_kept_in_order() -> None:
    login = read_login("ssh -i '~/my keys/id' -J hop@gate:22 -p 7 me@box -o StrictHostKeyChecking=accept-new")
    assert login.options == ("-i", "~/my keys/id", "-J", "hop@gate:22", "-o", "StrictHostKeyChecking=accept-new")
    assert 'IdentityFile "~/my keys/id"\n' in Tunnel(login).config and "StrictHostKeyChecking accept-new" in Tunnel(login).config


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "empty"),
        ("\n \n", "empty"),
        ("ssh", "empty"),
        ("ssh -p 46457", "names no machine"),
        ("ssh -p root@host", "no port|names no machine"),
        ("ssh -p 99999 root@host", "no port"),
        ("ssh -p ４６ root@host", "no port"),
        ("ssh root@host:46457", "behind a colon"),
        ("ssh root@host ls", "2 words"),
        ("ssh -Z root@host", "-Z"),
        ("ssh root@host -p", "no value"),
        ("ssh 'root@host", "quot"),
        ("ssh root@ho$t", "no name and no address"),
        ("ssh 'ro ot@host'", "no user name"),
        ("ssh root@999.1.1.1", "no address"),
        ("ssh '-oProxyCommand=touch x' root@host", "run a program"),
        ("ssh 'root@;reboot'", "no name"),
    ],
)
def test_what_is_no_login_is_named(line: str, says: str) -> None:
    with pytest.raises(SettingError, match=says) as failure:
        read_login(line)
    assert failure.value.fix


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
