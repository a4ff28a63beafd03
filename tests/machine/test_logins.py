"""Every paste of the tables: the exact login, or the kind of refusal."""

from __future__ import annotations

import shutil

import pytest
from login_pastes import AUTODL, OTHERS, REFUSED, SAME, TWO, as_ssh_reads_it, everything_said

from labkit.common.errors import SettingError
from labkit.machine.login_parts import is_address
from labkit.machine.logins import Login, read_login


@pytest.mark.parametrize("paste", SAME)
def test_every_form_of_one_login(paste: str) -> None:
    assert read_login(paste) == AUTODL


@pytest.mark.parametrize(("paste", "login"), OTHERS)
def test_other_logins(paste: str, login: Login) -> None:
    assert read_login(paste) == login


@pytest.mark.parametrize("paste", TWO)
def test_two_different_logins_are_asked_about(paste: str) -> None:
    with pytest.raises(SettingError, match="two different logins") as failure:
        read_login(paste)
    assert "Which one?" in failure.value.fix


@pytest.mark.parametrize(
    ("paste", "says"),
    [
        (TWO[0], "differ in the port."),
        (TWO[1], "differ in the machine and the port and the user."),
        ("ssh me@box\nssh you@box", "the user."),
    ],
)
def test_it_is_said_what_the_two_differ_in(paste: str, says: str) -> None:
    with pytest.raises(SettingError, match=says):
        read_login(paste)


@pytest.mark.parametrize(("paste", "says"), REFUSED)
def test_what_is_no_login_is_told_by_its_kind(paste: str, says: str) -> None:
    with pytest.raises(SettingError, match=says) as failure:
        read_login(paste)
    assert failure.value.fix


@pytest.mark.parametrize("paste", [None, 8080, ["ssh", "root@host"]])
def test_what_is_no_text_is_refused(paste: object) -> None:
    with pytest.raises(SettingError, match="not text"):
        read_login(paste)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "paste",
    [
        "ssh root@SECRET$",
        "ssh -p SECRET root@host",
        "ssh -SECRET root@host",
        "ssh --SECRET root@host",
        "ssh -o SECRET=1 root@host",
        "ssh -o ProxyCommand=SECRET root@host",
        "ssh -o StrictHostKeyChecking=SECRET root@host",
        "ssh -i '$SECRET' root@host",
        "ssh -J 'SECRET!@x' root@host",
        "ssh root@host ls SECRET",
        "ssh root@host; echo SECRET",
        "ssh 'root@host SECRET",
        "SECRET",
        "SECRET!",
        "密码 SECRET",
        "https://host.example/?token=SECRET",
        "root@$(SECRET):22",
        "curl -u root:SECRET host.example",
        "Host g\n HostName SECRET!\n",
        "ssh box SECRET\nssh other SECRET",
    ],
)
def test_no_error_repeats_what_was_pasted(paste: str) -> None:
    with pytest.raises(SettingError) as failure:
        read_login(paste.replace("SECRET", "Zq7xKw"))
    assert all("Zq7xKw" not in text for text in everything_said(failure.value))


@pytest.mark.skipif(not shutil.which("ssh"), reason="needs ssh (apt-get install -y openssh-client)")
@pytest.mark.parametrize("login", [AUTODL, *(login for _, login in OTHERS)])
def test_ssh_reads_the_words_as_the_same_login(login: Login) -> None:
    told = as_ssh_reads_it(login)
    assert told["hostname"].lower() == login.host.lower()
    assert login.port in (0, int(told["port"]))
    assert login.user in ("", told["user"])
    assert not {"proxycommand", "localcommand", "remotecommand", "pkcs11provider", "localforward", "dynamicforward"} & told.keys()


def test_an_address_is_told_from_a_name() -> None:
    assert is_address("10.0.0.7") and is_address("fe80::1%eth0") and not is_address("box") and not is_address("::1%;")
