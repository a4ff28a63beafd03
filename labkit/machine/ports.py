"""Who listens on a port: asked before anything is started, because an engine finds out only after minutes.

Covers: naming the listener, refusing a busy port, proving that a port belongs to a set of processes.
Does not cover: choosing ports (`common.settings`) or the way in from another machine (`tunnels`). Used by every start of a server.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from dataclasses import dataclass

import psutil

from ..common.errors import PortInUse


@dataclass(frozen=True)
class Listener:
    """A process that listens on a port of this machine; `pid` 0 and no command if it may not be seen."""

    port: int
    pid: int = 0
    command: str = ""

    def __str__(self) -> str:
        return f"pid {self.pid}: {self.command}" if self.pid else "a process that this user may not see"


def listener(port: int) -> Listener | None:
    """Who listens on `port` on any address, None if nobody does."""
    for connection in psutil.net_connections("inet"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            return Listener(port, connection.pid or 0, _command(connection.pid))
    return None if _can_bind(port) else Listener(port)


def require_free(port: int, variable: str = "") -> None:
    """Raise `PortInUse`, with the name of the listener, unless `port` is free. Nobody is killed."""
    holder = listener(port)
    if holder:
        other = f" or choose another port: export {variable}=<port>" if variable else " or choose another port"
        stop = f"Stop it if it is yours (kill {holder.pid})" if holder.pid else "Stop it"
        raise PortInUse(f"Port {port} is taken by {holder}.", f"{stop},{other}.")


def listens(port: int, pids: Collection[int]) -> bool:
    """Whether one of `pids` is the one that listens on `port`: an answer from there is an answer from them."""
    return any(
        connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid in pids
        for connection in psutil.net_connections("inet")
    )


def _command(pid: int | None) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())[:120] if pid else ""
    except psutil.Error:
        return ""


def _can_bind(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
