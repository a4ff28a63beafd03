"""A server with the stand-in engine: what the tests of the server layer start, in real processes."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from labkit.common.logs import Stage
from labkit.common.settings import settings
from labkit.engines.engine import Engine
from labkit.serving import keys
from labkit.serving.registry import Record
from labkit.serving.server import Server, start

ENGINE = Engine(
    name="fake",
    title="Fake",
    runtime="fake",
    module=(),
    port_variable="LABKIT_PORT_FAKE",
    key_variable="FAKE_KEY",
    stages=(Stage("importing", "", 1, 1), Stage("loading", "loading", 1, 1), Stage("serving", "serving", 1, 1)),
    grace_seconds=5.0,
)
FAKE = str(Path(__file__).with_name("fake_engine.py"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def begin(
    *words: str, name: str = "fake", port: int | None = None, owner: str = "kernel", gpus: tuple[str, ...] = (), share_gpu: bool = False
) -> Server:
    """Start the stand-in with further words on its command line; `gpus` are the UUIDs of those that it is said to use."""
    config, number = settings(), port or free_port()
    record = Record(
        name=name,
        engine="fake",
        command=[sys.executable, FAKE, str(number), *words],
        shown="",
        port=number,
        model="m",
        source="",
        key_file=str(keys.key_file(name)),
        out=str(config.logs / name / "1.out.log"),
        err=str(config.logs / name / "1.err.log"),
        owner=owner,
        device="gpu" if gpus else "cpu",
        gpus=list(gpus),
    )
    return start(ENGINE, record, {"FAKE_KEY": keys.key(name)}, share_gpu=share_gpu)
