"""The way in from the student's own computer: SSH command lines that bring a port of the rented machine to its browser.

`tunnel(LINE)` takes the login line as AutoDL shows it and prints what to paste on Linux, macOS and Windows, and a block for
~/.ssh/config. Everything is done by OpenSSH on the student's side; this machine only does the writing.

Covers: the commands, what each option is for, how to check. Does not cover: reading the login line (`logins`), running ssh (the
rented machine cannot reach the student's), other ways in (notebook 05). Used by notebook 05 and `./lab tunnel`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..common.errors import SettingError
from .logins import EXAMPLE as EXAMPLE
from .logins import Login, read_login

STEPS_APART = 10_000
SETTINGS = {"ExitOnForwardFailure": "yes", "ServerAliveInterval": "30", "ServerAliveCountMax": "3"}
OPTIONS = (
    ("-C", "compresses: the page's scripts come through faster", "压缩传输，网页文件更快"),
    ("-N", "no remote command: the terminal stays silent and stays open, that is right", "不执行远程命令；终端没有输出是正常的"),
    (
        "-L 127.0.0.1:A:127.0.0.1:B",
        "port A of your computer, for programs on it only, leads to port B of the rented machine; the second 127.0.0.1 is the "
        "rented machine's own",
        "你电脑的 A 端口（只给本机程序用）通到租的机器的 B 端口；第二个 127.0.0.1 指租的机器自己",
    ),
    ("-o ExitOnForwardFailure=yes", "port A is taken: a message, instead of a tunnel that leads nowhere", "A 端口被占用就报错退出"),
    ("-o ServerAliveInterval=30", "asks every 30 s if the other side lives; ends after 3 silences", "每 30 秒问一次对方，3 次没回应就退出"),
    ("-p, user@host", "the port and the name from your login line", "登录命令里的端口和地址"),
)
"""Option, what it is for in English, in Chinese."""
SHARE_WARNING = (
    "-g opens the port to every computer that can reach yours (dormitory, campus, cafe), not only to you. Whoever knows a password "
    "of the page can use it, and everybody can try. Leave it out unless that is what you want.\n"
    "-g 会把端口开放给能访问你电脑的所有人（宿舍、校园网、咖啡店），不只是你自己。除非确实想共享，否则不要加。"
)


@dataclass(frozen=True)
class Tunnel:
    """Commands for one or more ports. `forwards` are pairs (port on the student's computer, port on this machine)."""

    login: Login
    forwards: tuple[tuple[int, int], ...] = ((8080, 8080),)
    share: bool = False
    alias: str = "autodl-tunnel"

    @property
    def words(self) -> list[str]:
        """The command as a list of words."""
        first, *others = [f"{begin}:127.0.0.1:{remote}" for begin, remote in self._begins()]
        more = [word for forward in others for word in ("-L", forward)]
        settings = [word for name, value in SETTINGS.items() for word in ("-o", f"{name}={value}")]
        return ["ssh", "-CNgL" if self.share else "-CNL", first, *more, *settings, *self.login.words]

    @property
    def command(self) -> str:
        """One line for a terminal on Linux or macOS."""
        return shlex.join(self.words)

    @property
    def powershell(self) -> str:
        """One line for PowerShell; Windows 10 and 11 have ssh."""
        return " ".join(_powershell_word(word) for word in self.words)

    @property
    def config(self) -> str:
        """A block for ~/.ssh/config; afterwards `ssh -N ALIAS` is the whole command. For an alias these lines join its own."""
        rows = [f"HostName {self.login.host}"] if self.login.host != self.alias else []
        rows += [f"User {self.login.user}"] if self.login.user else []
        rows += [f"Port {self.login.port}"] if self.login.port else []
        rows += _config_rows(self.login.options)
        rows += [f"LocalForward {begin} 127.0.0.1:{remote}" for begin, remote in self._begins()]
        rows += ["GatewayPorts yes"] if self.share else []
        rows += ["Compression yes", *(f"{name} {value}" for name, value in SETTINGS.items())]
        return "\n    ".join([f"Host {self.alias}", *rows])

    @property
    def others(self) -> list[int]:
        """Ports of the student's computer to try when the first is taken there; Open-WebUI of this kit accepts each of them."""
        return local_ports(self.forwards[0][1])[1:]

    def text(self) -> str:
        """All of it for a reader: commands, options, what to do when a port is taken, how to check."""
        local, remote = self.forwards[0]
        instead = Tunnel(self.login, ((self.others[0], remote), *self.forwards[1:]), self.share).command
        parts = [
            "Run this on YOUR computer, not on the rented one, and leave it open · 在你自己的电脑上运行，不是在租的机器上，保持窗口不关",
            _block("Linux, macOS", self.command),
            _block("Windows PowerShell", self.powershell),
            _block(f"or once, in ~/.ssh/config; then: ssh -N {self.alias} · 或者写进 ~/.ssh/config", self.config),
            _block("What the options do · 选项的含义", _explained()),
            *([_block("WARNING · 警告", SHARE_WARNING)] if self.share else []),
            _block(f'"Address already in use": port {local} there is taken · 本机端口被占用', _taken(self.others, instead)),
            _block("Is it there? In a second terminal of your computer · 检查", _checks(local)),
            f"Then open · 然后打开: http://127.0.0.1:{local}   (end it with Ctrl-C in the first terminal · 用 Ctrl-C 结束)",
        ]
        return "\n\n".join(parts)

    def _begins(self) -> list[tuple[str, int]]:
        """Where each forwarding begins on the student's computer (port alone: on every address of it), and its port here."""
        return [(f"{local}" if self.share else f"127.0.0.1:{local}", remote) for local, remote in self.forwards]

    __str__ = text
    __repr__ = text


def tunnel(line: str, ports: int | Iterable[int | tuple[int, int]] = 8080, *, share: bool = False) -> Tunnel:
    """The commands that bring `ports` of this machine to the computer from which the student logs in with `line`.

    `ports` is one port, or several; a pair is (port there, port here). `share` adds -g: see `SHARE_WARNING`.
    Raises `SettingError` for a line that is no login and for ports that cannot be.
    """
    chosen = [ports] if isinstance(ports, int) else ports
    forwards = tuple((port, port) if isinstance(port, int) else (int(port[0]), int(port[1])) for port in chosen)
    if not forwards:
        raise SettingError("No port was named.", "tunnel(line, 8080), or several: tunnel(line, [8080, 8000]).")
    for number in (number for pair in forwards for number in pair):
        if not 1 <= number <= 65535:
            raise SettingError(f"{number} is no port.", "Ports go from 1 to 65535; 8080 is Open-WebUI's.")
    locals_ = [local for local, _ in forwards]
    if len(set(locals_)) < len(locals_):
        raise SettingError(f"Two forwardings begin at the same local port: {locals_}.", "Give one of them another: (18080, 8080).")
    login = read_login(line)
    return Tunnel(login, forwards, share, alias=login.host if login == Login(login.host) else "autodl-tunnel")


def local_ports(port: int) -> list[int]:
    """Where to let a tunnel to `port` begin: the same number, and two others that are rarely taken."""
    steps = STEPS_APART if port + 2 * STEPS_APART <= 65535 else -STEPS_APART
    return [port, port + steps, port + 2 * steps]


def _powershell_word(word: str) -> str:
    return word if re.fullmatch(r"[A-Za-z0-9_.:/@=+\\~-]+", word) else "'" + word.replace("'", "''") + "'"


def _config_rows(options: Sequence[str]) -> list[str]:
    """-i, -J and -o as lines of ssh_config(5); -F names another such file, which is read with Include."""
    names = {"-i": "IdentityFile", "-J": "ProxyJump", "-F": "Include"}
    rows = []
    for option, value in zip(options[::2], options[1::2], strict=True):
        if option == "-o":
            name, _, setting = value.replace("=", " ", 1).strip().partition(" ")
            rows.append(f"{name} {setting.strip()}")
        else:
            rows.append(f'{names[option]} "{value}"' if " " in value else f"{names[option]} {value}")
    return rows


def _block(title: str, text: str) -> str:
    return f"{title}\n" + "\n".join(f"    {line}" for line in text.splitlines())


def _explained() -> str:
    return "\n".join(f"{name:28} {english}\n{'':28} {chinese}" for name, english, chinese in OPTIONS)


def _taken(others: list[int], instead: str) -> str:
    return f"Try · 依次试: {', '.join(map(str, others))}\n{instead}"


def _checks(local: int) -> str:
    return (
        f"curl -sS http://127.0.0.1:{local}/health                  (Windows: curl.exe -sS http://127.0.0.1:{local}/health)\n"
        '{"status":true} or no text    it works · 成功\n'
        "Connection refused           the tunnel is not open: look at its terminal · 隧道没开，看第一个终端\n"
        'Empty reply, and "open failed: connect failed" in the terminal of the tunnel\n'
        "                             nothing listens on the rented machine: ./lab ps there · 租的机器上没有服务"
    )
