"""`serve`: the main function of the kit. Works out the launch, attaches to the server that runs it already, or starts it.

Does not cover: what is started (`launch`), how (`guards`), when it is ready (`starting`). Used by notebooks 03, 04 and 06 and by
`./lab up`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..common.errors import AlreadyRunning, PortInUse
from ..common.refusals import told
from ..models.profiles import Profile
from .launch import Launch, plan_launch
from .registry import ServerFolder
from .server import START_SECONDS, Server, start

RACES = 5
"""How often a port or a name may go to somebody who starts at the same instant before that is told."""


@told()
def serve(
    engine: str,
    model: str | Path | Profile = "auto",
    *,
    name: str | None = None,
    port: int | None = None,
    gpus: int | str | Sequence[int | str] | None = None,
    share_gpu: bool = False,
    owner: str | None = None,
    wait: bool = True,
    timeout: float = START_SECONDS,
    use_modelscope: bool = False,
    hot_adapters: bool = False,
    extra: list[str] | None = None,
    **options: object,
) -> Server:
    """Start `engine` ("vllm" or "sglang") with `model` on 127.0.0.1 and return when it answers; if it runs already, attach to it.

    `model` is a profile's name, a folder, or a hub's id (`use_modelscope` takes that from ModelScope). Every other keyword is
    a flag of the engine, spelt with underscores: max_model_len=8192, gpu_memory_utilization=0.9, max_num_seqs=64,
    max_num_batched_tokens, tensor_parallel_size, pipeline_parallel_size, dtype, kv_cache_dtype, quantization,
    chat_template, reasoning_parser, enable_lora=True, lora_modules=["name=path"], load_format="dummy", host="0.0.0.0" (then
    the whole network can reach it; the default is this machine alone). SGLang's words differ: `labkit.flag_table()`.
    `hot_adapters` switches LoRA on and lets `Server.load_adapter` work while the server runs; off by default, because whoever has
    the key could then make the engine read any folder. Adapters given here are held against the base first (`serving.hot_adapters`).
    `extra` is passed through unchanged. A profile brings its own max_model_len (SGLang: context_length) and reasoning parser;
    say None to leave one out.

    `name` lets several servers of one engine run, each with its port (the next one that is free where none is given), key and logs;
    without it the name is the engine's. `gpus` are indices as nvidia-smi shows them, or UUIDs; without it the server takes the first
    of the GPUs that CUDA_VISIBLE_DEVICES leaves, as many as it splits its model over. A GPU that another server of the kit uses is
    refused unless `share_gpu`: memory is then judged when the last of them stops.

    `owner` "kernel" ends the server with this process, "lab" lets it outlive it (default: LABKIT_OWNER). `wait=False`
    returns at once. Prints the exact command line. Raises `LabError` children: before anything starts for an unknown
    engine, profile or folder, a busy port or GPU, a missing environment; `StartFailed` when the engine exits.
    """
    for _ in range(RACES):
        launch = plan_launch(
            engine,
            model,
            name=name,
            port=port,
            gpus=gpus,
            owner=owner,
            use_modelscope=use_modelscope,
            hot_adapters=hot_adapters,
            extra=extra or (),
            options=options,
        )
        try:
            server = _running(launch) or _start(launch, share_gpu)
        except (AlreadyRunning, PortInUse) as error:
            lost = error
        else:
            return server.wait(timeout) if wait else server
        if isinstance(lost, PortInUse) and (port is not None or launch.record.name == launch.engine.name):
            raise lost
        if isinstance(lost, AlreadyRunning) and _running(launch) is None:
            raise lost
    raise lost


def _start(launch: Launch, share_gpu: bool) -> Server:
    server = start(launch.engine, launch.record, dict(launch.environment), share_gpu=share_gpu)
    print(launch.announcement(), flush=True)
    return server


def _running(launch: Launch) -> Server | None:
    """The server that already runs this very command, in the same environment and on the same GPUs, so that a cell can be run again.

    One that outlives its kernel serves who asked for one that does not; the other way round it would end under them.
    """
    wanted, folder = launch.record, ServerFolder(launch.record.name)
    record = folder.record
    if record is None or record.shown != wanted.shown or record.owner not in ("lab", wanted.owner):
        return None
    if record.gpus != wanted.gpus and record.format > 1:
        return None
    if folder.status().state not in ("starting", "ready"):
        return None
    server = Server(launch.engine, folder)
    server.key  # noqa: B018  raises where its file was lost since
    return server
