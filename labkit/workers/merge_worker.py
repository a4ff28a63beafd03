"""Writes merged shards, in the vLLM environment: the worker's half of `lora.merging`.

Three jobs (`merge_job`): "merge" (labkit's: tensor by tensor at the byte offsets of the headers, a few rows at a time), "peft" (the
whole model through PEFT, for comparison) and "unpickle" (an adapter_model.bin that was asked for, as safetensors).

Covers: the threads and the chunks that they put together. The arithmetic lies in `merge_arithmetic`, the files in `shard_files`.
"""

from __future__ import annotations

import mmap
import os
import queue
import re
import threading
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from labkit.workers import side
from labkit.workers.merge_arithmetic import Arithmetic, Factors, blocks, dtype_of
from labkit.workers.merge_job import MergeRequest, MergeResult, PeftRequest, ShardJob, TensorChange, UnpickleRequest
from labkit.workers.messages import parse
from labkit.workers.shard_files import CHUNK, PAGE, Inputs, ShardFile
from labkit.workers.side import Refused

TELL_SECONDS = 0.3
MAX_THREADS = 8
LEFT_OUT = "missing adapter keys"
"""What PEFT (0.21.2) warns of where the file lacks tensors that the adapter's settings ask for."""


def work(request: dict[str, Any]) -> dict[str, Any]:
    if request["job"] == "merge":
        merge(parse(MergeRequest, request))
    elif request["job"] == "peft":
        merge_with_peft(parse(PeftRequest, request))
    else:
        unpickle(parse(UnpickleRequest, request))
    return asdict(MergeResult(peak_bytes()))


def peak_bytes() -> int:
    """The most memory that this process ever held, as the kernel counted it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def merge(request: MergeRequest) -> None:
    """Write every shard of the request; tells "shard" as each is whole, and "broken" before it raises `Refused`."""
    side.tell("progress", done=0, note="importing torch")
    import torch

    torch.set_num_threads(1)  # the threads here are ours, one for each piece of work
    # twice as many as cores: half of them wait for the disk
    _Merge(request.shards).run(min(MAX_THREADS, 2 * len(os.sched_getaffinity(0))))


class _Merge:
    """All shards, the threads that write them, and the names of the tensors that changed."""

    def __init__(self, jobs: Sequence[ShardJob]) -> None:
        self.shards = [ShardFile(job) for job in jobs]
        self.changed: set[str] = set()
        self.factors = Factors()
        self.done = 0
        self.stopped = False
        self.error: BaseException | None = None
        self.lock = threading.Lock()

    def run(self, threads: int) -> None:
        chunks: queue.SimpleQueue[tuple[ShardFile, int]] = queue.SimpleQueue()
        for shard in self.shards:
            for first in range(0, shard.size, CHUNK):
                chunks.put((shard, first))
        crew = [threading.Thread(target=self._serve, args=(chunks, threads), daemon=True) for _ in range(threads)]
        for thread in crew:
            thread.start()
        for thread in crew:
            while thread.is_alive():
                thread.join(TELL_SECONDS)
                side.tell("progress", done=self.done, note="merging")
        if isinstance(self.error, Refused):
            side.tell("broken")
        if self.error is not None:
            raise self.error

    def _serve(self, chunks: queue.SimpleQueue[tuple[ShardFile, int]], ahead: int) -> None:
        writer = _ChunkWriter(self)
        try:
            while not self.stopped:
                shard, first = chunks.get_nowait()
                self._open(shard)
                writer.write(shard, first, ahead)
                self._finish(shard, min(CHUNK, shard.size - first))
        except queue.Empty:
            pass
        except BaseException as error:  # the main thread tells it
            self.error = self.error or error
            self.stopped = True
        finally:
            writer.inputs.close()

    def _open(self, shard: ShardFile) -> None:
        with self.lock:
            if shard.output < 0:
                shard.open()

    def _finish(self, shard: ShardFile, size: int) -> None:
        with self.lock:
            self.done += size
            shard.left -= 1
            whole = shard.left == 0
        if whole:
            shard.close()
            names = {part.change.name for part in shard.parts if part.change is not None}
            side.tell("shard", name=shard.name, changed=sorted(names & self.changed))


class _ChunkWriter:
    """What one thread works with: files open for reading, its arithmetic, a chunk in the making."""

    def __init__(self, merge: _Merge) -> None:
        import torch

        self.merge = merge
        self.inputs = Inputs()
        self.arithmetic = Arithmetic(self.inputs, merge.factors)
        self.memory = mmap.mmap(-1, CHUNK)  # begins at a page, which O_DIRECT asks for
        self.chunk = torch.frombuffer(self.memory, dtype=torch.uint8)

    def write(self, shard: ShardFile, first: int, ahead: int) -> None:
        """Put one chunk together and write it, while the kernel reads what this thread will need next."""
        import torch

        last = min(first + CHUNK, shard.size)
        self.inputs.expect(shard.source, first + ahead * CHUNK)
        with torch.inference_mode():
            for part in shard.within(first, last):
                begin, end = max(part.first, first), min(part.last, last)
                into = self.chunk[begin - first : end - first]
                if part.change is None:
                    self.inputs.fill(into, shard.source, begin)
                else:
                    self._change(part.change, begin - part.first, end - part.first, into)
        shard.write(memoryview(self.memory)[: -(-(last - first) // PAGE) * PAGE], first)

    def _change(self, change: TensorChange, begin: int, end: int, into: Any) -> None:
        """Bytes `begin` to `end` of a changed tensor; rows that lie across a chunk's edge are computed for both chunks."""
        import torch

        dtype, columns = dtype_of(change.base), change.base.columns
        width = columns * dtype.itemsize
        for first, last in blocks(begin // width, -(-end // width), change.base.rows, columns):
            low, high = max(first * width, begin), min(last * width, end)
            place = into[low - begin : high - begin]
            straight = high - low == (last - first) * width and place.data_ptr() % dtype.itemsize == 0
            shape = (last - first, columns)
            merged = place.view(dtype).view(shape) if straight else self.arithmetic.buffer("merged", dtype, shape)
            base = self.arithmetic.rows(change, first, last, merged)
            if not straight:
                place.copy_(merged.view(-1).view(torch.uint8)[low - first * width : high - first * width])
            if change.name not in self.merge.changed and not torch.equal(merged, base):
                with self.merge.lock:
                    self.merge.changed.add(change.name)


def merge_with_peft(request: PeftRequest) -> None:
    """The whole model in memory, PEFT's plain merge, save_pretrained; the base's own type throughout."""
    side.tell("progress", done=0, note="importing transformers and PEFT")
    import torch
    from peft import PeftModel

    side.tell("progress", done=0, note="loading the base")
    model = _class_of(request.base).from_pretrained(request.base, dtype="auto", local_files_only=True)
    side.tell("progress", done=0, note="loading the adapter")
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            wrapped = PeftModel.from_pretrained(model, request.adapter)
    except Exception as error:  # it checks settings by whatever its methods raise
        raise Refused(f"PEFT cannot load {request.adapter}: {_said(error)}", "See labkit.lora.check for what does not fit.") from error
    if any(LEFT_OUT in str(warning.message) for warning in warned):
        _require_taken(request, wrapped)
    side.tell("progress", done=0, note="merging")
    try:
        merged = wrapped.merge_and_unload()
    except Exception as error:
        raise Refused(f"PEFT cannot merge {request.adapter}: {_said(error)}", "Run it with PEFT beside its base instead.") from error
    bad = next((name for name, tensor in merged.named_parameters() if not bool(torch.isfinite(tensor).all())), None)
    if bad is not None:
        raise Refused(
            f"{bad} holds NaN or infinity after the merge with {request.adapter}.", "Take an earlier checkpoint. Nothing was kept."
        )
    side.tell("progress", done=0, note="saving")
    merged.save_pretrained(request.out, max_shard_size="5GB")


def _require_taken(request: PeftRequest, wrapped: Any) -> None:
    """PEFT, which misses tensors, must have found a place for all that the file has: else they have other names than it looks for."""
    from safetensors import safe_open

    file = Path(request.adapter, "adapter_model.safetensors")
    if not file.is_file():
        return
    places = {re.sub(r"\.default(?=\.|$)", "", name) for name in wrapped.state_dict()}
    with safe_open(file, "pt") as tensors:
        names = [name for name in tensors.keys() if "lora_" in name and name not in places]  # noqa: SIM118
    if names:
        raise Refused(
            f"PEFT leaves out {len(names)} tensors of {file}, whose names it does not find in the base as transformers reads it, "
            f"first {names[0]}.",
            'Merge with method="labkit", which maps names, if its check takes the adapter.',
        )


def _class_of(base: str) -> Any:
    """transformers' class for the folder: the one that its config names, which need not be a causal language model's."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(base, local_files_only=True)
    named = next(iter(getattr(config, "architectures", None) or ()), "")
    return getattr(transformers, named, transformers.AutoModelForCausalLM)


def _said(error: Exception) -> str:
    return str(error).strip()[:600] or type(error).__name__


def unpickle(request: UnpickleRequest) -> None:
    """The tensors of an adapter_model.bin as safetensors; torch's weights_only lets nothing else through."""
    side.tell("progress", done=0, note="reading the pickle")
    import torch
    from safetensors.torch import save_file

    fix = "Have the adapter saved as safetensors by whoever trained it."
    try:
        tensors = torch.load(request.pickle, map_location="cpu", weights_only=True)
    except Exception as error:  # rubbish ends in whatever the unpickler stumbles over, IndexError too
        raise Refused(f"{request.pickle} is no file of tensors: {_said(error)[:400]}", fix) from None
    if not isinstance(tensors, dict) or not tensors or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise Refused(f"{request.pickle} holds {type(tensors).__name__}, not tensors by their names.", fix)
    save_file({str(name): tensor.contiguous().clone() for name, tensor in tensors.items()}, request.out)


if __name__ == "__main__":
    side.answer(work)
