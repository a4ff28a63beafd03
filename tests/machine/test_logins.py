"""Login lines as they are really pasted."""

from __future__ import annotations

import pytest

from labkit.common.errors import SettingError
from labkit.machine.logins import Login, read_login

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
        "ssh -p 46457 -- root@connect.nmb2.seetacloud.com",
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
        ("ssh -Z root@host", "no option -Z"),
        ("ssh root@host --port 22", "no option --port"),
        ("ssh -i '' root@host", "-i has no value"),
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
