"""The way in from the student's own computer: SSH command lines that bring a port of the rented machine to its browser.

`tunnel(LINE)` takes the login line as AutoDL shows it and prints what to paste on Linux, macOS and Windows, and a block for
~/.ssh/config. Everything is done by OpenSSH on the student's side; this machine only does the writing.

Covers: the commands, what each option is for, how to check. Does not cover: reading the login line (`logins`), running ssh (the
rented machine cannot reach the student's), other ways in (notebook 05). Used by notebook 05 and `./lab tunnel`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from ..common.errors import SettingError
from .key_paths import for_config, for_powershell, powershell_word
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


ANSWERS = (
    (
        "bind ...: Permission denied, cannot listen to port: {port}    (nothing to do with the password)",
        "    Windows keeps the port for itself, or it is below 1024: another one of yours, as above. Which ones Windows keeps:",
        "    Windows 保留了这个端口（或者端口小于 1024），和密码无关：像上面那样换一个本机端口。查看保留的端口：",
        "    netsh interface ipv4 show excludedportrange protocol=tcp",
    ),
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED, Host key verification failed",
        "    The platform gave the address to another instance, or this one was made anew. If neither is so, do not go on. Else:",
        "    平台把这个地址分给了另一个实例，或者实例重建过。如果都不是，不要继续；是的话，删掉旧的记录再连：",
        '    ssh-keygen -R "{known}"',
    ),
    (
        "open failed: administratively prohibited",
        "    The machine's SSH server forbids forwarding (AllowTcpForwarding no; some proxies of platforms): another way in, notebook 05.",
        "    那边的 SSH 服务禁止端口转发（AllowTcpForwarding no，或平台的代理）：换一种访问方式，见 notebook 05。",
    ),
    (
        "open failed: connect failed: Connection refused",
        "    The tunnel works, but nothing listens on the rented machine: ./lab ps there · 隧道通了，租的机器上没有服务",
    ),
    (
        "Permission denied (publickey,password)",
        "    The password or key is not this instance's; the password is typed blind · 密码或密钥不对，输入密码时不显示",
    ),
    (
        "kex_exchange_identification, Connection closed by remote host, Connection reset, Connection refused, Connection timed out",
        "    The instance is shut down or still starting, or has another port now: look at the console, copy the line again.",
        "    实例关机了、正在启动，或者端口变了：看控制台，重新复制登录指令。",
    ),
    (
        "client_loop: send disconnect, Broken pipe",
        "    The network was away or the instance was shut down: start the command again · 断网或关机了，重新运行命令",
    ),
    ("More of them · 更多: docs/troubleshooting.md, docs/troubleshooting.zh.md",),
)
"""What OpenSSH prints in the tunnel's terminal, and what to do; {port} is the student's, {known} the machine as ssh knows it."""


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
        return [*self._ahead(), *self.login.words]

    @property
    def command(self) -> str:
        """One line for a terminal on Linux or macOS."""
        return shlex.join(self.words)

    @property
    def powershell(self) -> str:
        """One line for PowerShell; Windows 10 and 11 have ssh."""
        return " ".join([*map(powershell_word, self._ahead()), *self.login.written(for_powershell, powershell_word)])

    @property
    def config(self) -> str:
        """A block for ~/.ssh/config; afterwards `ssh -N ALIAS` is the whole command. For an alias these lines join its own."""
        rows = [f"HostName {self.login.host.replace('%', '%%')}"] if self.login.host != self.alias else []
        rows += [f"User {self.login.user}"] if self.login.user else []
        rows += [f"Port {self.login.port}"] if self.login.port else []
        rows += _config_rows(self.login)
        rows += [f"LocalForward {begin} 127.0.0.1:{remote}" for begin, remote in self._begins()]
        rows += ["GatewayPorts yes"] if self.share else []
        rows += ["Compression yes", *(f"{name} {value}" for name, value in self._settings().items())]
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
            _block("What ssh says, and what to do · ssh 的提示和办法", _answers(self.login, local)),
            _block("Is it there? In a second terminal of your computer · 检查", _checks(local)),
            f"Then open · 然后打开: http://127.0.0.1:{local}   (end it with Ctrl-C in the first terminal · 用 Ctrl-C 结束)",
        ]
        return "\n\n".join(parts)

    def _ahead(self) -> list[str]:
        """The words up to the login."""
        first, *others = [f"{begin}:127.0.0.1:{remote}" for begin, remote in self._begins()]
        more = [word for forward in others for word in ("-L", forward)]
        settings = [word for name, value in self._settings().items() for word in ("-o", f"{name}={value}")]
        return ["ssh", "-CNgL" if self.share else "-CNL", first, *more, *settings]

    def _settings(self) -> dict[str, str]:
        """What this kit sets, unless the login line says it otherwise."""
        said = {word.partition("=")[0] for word in self.login.options}
        return {name: value for name, value in SETTINGS.items() if name not in said}

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
    if isinstance(chosen, str):
        raise SettingError("The port is text.", "A port is a number, without quotes: tunnel(line, 8080).")
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


def with_login_apart(arguments: list[str]) -> list[str]:
    """`arguments` of `./lab tunnel` with -- in front of the login, whose options are ssh's, and which no message of argparse may repeat."""
    place = 1
    while place < len(arguments) and (arguments[place] in ("--share", "--ports", "-h", "--help") or arguments[place].isdigit()):
        place += 1
    apart = [] if arguments[place : place + 1] == ["--"] else ["--"]
    return [*arguments[:place], *apart, *arguments[place:]]


def local_ports(port: int) -> list[int]:
    """Where to let a tunnel to `port` begin: the same number, and two others that are rarely taken."""
    steps = STEPS_APART if port + 2 * STEPS_APART <= 65535 else -STEPS_APART
    return [port, port + steps, port + 2 * steps]


def _config_rows(login: Login) -> list[str]:
    """-i, -J and -o as lines of ssh_config(5)."""
    rows = []
    for option, value in zip(login.options[::2], login.options[1::2], strict=True):
        name, _, setting = value.partition("=") if option == "-o" else ({"-i": "IdentityFile", "-J": "ProxyJump"}[option], "", value)
        rows.append(f"{name} {for_config(setting) if option == '-i' else setting}")
    return rows


def _known_as(login: Login) -> str:
    """What ssh calls the machine in its list of known hosts."""
    return f"[{login.host}]:{login.port}" if login.port not in (0, 22) else login.host


def _block(title: str, text: str) -> str:
    return f"{title}\n" + "\n".join(f"    {line}" for line in text.splitlines())


def _explained() -> str:
    return "\n".join(f"{name:28} {english}\n{'':28} {chinese}" for name, english, chinese in OPTIONS)


def _answers(login: Login, local: int) -> str:
    rows = (row.format(port=local, known=_known_as(login)) for rows in ANSWERS for row in rows)
    return "\n".join(rows)


def _taken(others: list[int], instead: str) -> str:
    return f"Try · 依次试: {', '.join(map(str, others))}\n{instead}"


def _checks(local: int) -> str:
    return (
        f"curl -sS http://127.0.0.1:{local}/health                  (Windows: curl.exe -sS http://127.0.0.1:{local}/health)\n"
        '{"status":true} or no text    it works · 成功\n'
        "Connection refused           the tunnel is not open: look at its terminal · 隧道没开，看第一个终端\n"
        'Empty reply or Connection reset, and "open failed: connect failed" in the terminal of the tunnel\n'
        "                             nothing listens on the rented machine: ./lab ps there · 租的机器上没有服务"
    )
