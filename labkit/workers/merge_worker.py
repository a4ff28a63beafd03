"""Writes merged shards, in the vLLM environment: the worker's half of `merging`.

Three jobs: "merge" (labkit's: tensor by tensor at the byte offsets of the headers, a few rows at a time), "peft" (the whole
model through PEFT, for comparison) and "unpickle" (an adapter_model.bin that was asked for, as safetensors).

The arithmetic of "merge" is PEFT's plain `merge_and_unload` (0.21.2, tuners/lora/layer.py), operation by operation, so that the
bits are the same: B @ A in fp32 (PEFT loads adapters as fp32), times the scale, added to the base's fp32 value, one cast.
Where PEFT rounds the delta first (embeddings), so does this. Rows of a product do not depend on one another, therefore a few
at a time give the same numbers; they stay in the processor's cache, which makes it fast and small.
"""

from __future__ import annotations

import bisect
import errno
import fcntl
import math
import mmap
import os
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.workers import side
from labkit.workers.side import Refused

BLOCK_ITEMS = 128 * 1024
"""Numbers worked on at a time: half a MiB in fp32, which a core's own cache holds together with what else is needed."""
GRID = 16
"""Least rows of a product: with less than 4 rows or 12 columns, MKL (2024.2, AVX-512) goes another way, which rounds otherwise."""
CHUNK = 8 * 2**20
"""Bytes of a file that a thread writes at a time."""
PAGE = 4096
"""What addresses, offsets and lengths are multiples of where the page cache is passed by."""
TELL_SECONDS = 0.3
MOST_THREADS = 8
Row = Mapping[str, Any]


def work(request: dict[str, Any]) -> dict[str, Any]:
    started = time.monotonic()
    result = {"merge": merge, "peft": through_peft, "unpickle": unpickle}[request["job"]](request)
    return {**result, "seconds": time.monotonic() - started, "peak_bytes": peak_bytes()}


def peak_bytes() -> int:
    """The most memory that this process ever held, as the kernel counted it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def merge(request: Row) -> dict[str, Any]:
    """Write every shard of the request; tells "shard" as each is whole. The result names the tensors that changed."""
    side.tell("progress", done=0, note="importing torch")
    import torch

    torch.set_num_threads(1)  # the threads here are ours, one for each piece of work
    # twice as many as cores: half of them wait for the disk
    return _Merge(request["shards"]).run(min(MOST_THREADS, 2 * len(os.sched_getaffinity(0))))


@dataclass(frozen=True)
class _Part:
    """Bytes `first` to `last` of a file: copied, or those of a changed tensor."""

    first: int
    last: int
    change: Row | None = None


class _Shard:
    """One file on its way. `left` counts its chunks that are still to be done."""

    def __init__(self, row: Row) -> None:
        self.name, self.source, self.target, self.size = row["name"], row["source"], row["target"], row["size"]
        parts = [_Part(first, first + size) for first, size in row["copies"]]
        parts += [_Part(change["offset"], change["offset"] + change["bytes"], change) for change in row["changes"]]
        self.parts = sorted((part for part in parts if part.last > part.first), key=lambda part: part.first)
        self.starts = [part.first for part in self.parts]
        self.left = -(-self.size // CHUNK)
        self.output = -1

    def within(self, first: int, last: int) -> Iterator[_Part]:
        """The parts that lie in a byte range, in order."""
        for part in self.parts[max(bisect.bisect_right(self.starts, first) - 1, 0) :]:
            if part.first >= last:
                return
            if part.last > first:
                yield part

    def open(self) -> None:
        """Make the file in its full length, so that a full disk shows before any work is done on it.

        What is written passes the page cache by where the file system can: that takes a third of the processor time, and leaves
        the base in the cache. Nobody reads the result before the merge has ended.
        """
        try:
            self.output = os.open(self.target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_DIRECT, 0o644)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self.output = os.open(self.target, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.posix_fallocate(self.output, 0, self.size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise OSError(error.errno, os.strerror(error.errno or 0), self.target) from None
            os.ftruncate(self.output, self.size)

    def write(self, data: memoryview, offset: int) -> None:
        """Write a chunk; its length is a multiple of PAGE, the last one's too (`close` cuts it)."""
        done = 0
        while done < len(data):
            try:
                done += os.pwrite(self.output, data[done:], offset + done)
            except OSError as error:
                flags = fcntl.fcntl(self.output, fcntl.F_GETFL)
                if error.errno != errno.EINVAL or not flags & os.O_DIRECT:
                    raise
                fcntl.fcntl(self.output, fcntl.F_SETFL, flags & ~os.O_DIRECT)

    def close(self) -> None:
        """Whole, also after a power cut."""
        os.ftruncate(self.output, self.size)
        os.fsync(self.output)
        os.close(self.output)


class _Merge:
    """All shards, the threads that write them, and what they found."""

    def __init__(self, shards: Sequence[Row]) -> None:
        self.shards = [_Shard(row) for row in shards]
        self.changed: set[str] = set()
        self.factors: dict[str, Any] = {}
        self.done = 0
        self.stopped = False
        self.error: BaseException | None = None
        self.lock = threading.Lock()

    def run(self, threads: int) -> dict[str, Any]:
        chunks: queue.SimpleQueue[tuple[_Shard, int]] = queue.SimpleQueue()
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
        return {"changed": sorted(self.changed), "threads": threads}

    def _serve(self, chunks: queue.SimpleQueue[tuple[_Shard, int]], ahead: int) -> None:
        hands = _Hands(self)
        try:
            while not self.stopped:
                shard, first = chunks.get_nowait()
                self._open(shard)
                hands.do(shard, first, ahead)
                self._finish(shard, min(CHUNK, shard.size - first))
        except queue.Empty:
            pass
        except BaseException as error:  # the main thread tells it
            self.error = self.error or error
            self.stopped = True
        finally:
            hands.close()

    def _open(self, shard: _Shard) -> None:
        with self.lock:
            if shard.output < 0:
                shard.open()

    def _finish(self, shard: _Shard, size: int) -> None:
        with self.lock:
            self.done += size
            shard.left -= 1
            whole = shard.left == 0
        if whole:
            shard.close()
            names = {part.change["name"] for part in shard.parts if part.change is not None}
            side.tell("shard", name=shard.name, changed=sorted(names & self.changed))


class _Hands:
    """What one thread works with: descriptors of its own, a chunk in the making, and buffers used again and again."""

    def __init__(self, merge: _Merge) -> None:
        import torch

        self.merge = merge
        self.inputs: dict[str, int] = {}
        self.buffers: dict[tuple[str, Any], Any] = {}
        self.operands: tuple[str, dict[str, Any]] = ("", {})
        self.memory = mmap.mmap(-1, CHUNK)  # begins at a page, which O_DIRECT asks for
        self.chunk = torch.frombuffer(self.memory, dtype=torch.uint8)

    def close(self) -> None:
        for descriptor in self.inputs.values():
            os.close(descriptor)

    def do(self, shard: _Shard, first: int, ahead: int) -> None:
        """Put one chunk together and write it, while the kernel reads what this thread will need next."""
        import torch

        last = min(first + CHUNK, shard.size)
        source = self._input(shard.source)
        os.posix_fadvise(source, first + ahead * CHUNK, CHUNK, os.POSIX_FADV_WILLNEED)
        with torch.inference_mode():
            for part in shard.within(first, last):
                begin, end = max(part.first, first), min(part.last, last)
                into = self.chunk[begin - first : end - first]
                if part.change is None:
                    _fill(source, into, begin, shard.source)
                else:
                    self._change(part.change, begin - part.first, end - part.first, into)
        try:
            shard.write(memoryview(self.memory)[: -(-(last - first) // PAGE) * PAGE], first)
        except OSError as error:
            raise OSError(error.errno, error.strerror, shard.target) from None

    def _change(self, change: Row, begin: int, end: int, into: Any) -> None:
        """Bytes `begin` to `end` of a changed tensor; rows that lie across a chunk's edge are computed for both chunks."""
        import torch

        dtype, columns = _dtype(change["dtype"]), change["columns"]
        width = columns * dtype.itemsize
        for first, last in _blocks(begin // width, -(-end // width), change["shape"][0], columns):
            low, high = max(first * width, begin), min(last * width, end)
            place = into[low - begin : high - begin]
            straight = high - low == (last - first) * width and place.data_ptr() % dtype.itemsize == 0
            merged = place.view(dtype).view(-1, columns) if straight else self._buffer("merged", dtype, (last - first, columns))
            base = self._rows(change, first, last, merged)
            if not straight:
                place.copy_(merged.view(-1).view(torch.uint8)[low - first * width : high - first * width])
            if change["name"] not in self.merge.changed and not torch.equal(merged, base):
                with self.merge.lock:
                    self.merge.changed.add(change["name"])

    def _rows(self, change: Row, first: int, last: int, merged: Any) -> Any:
        """Write the rows as they become to `merged`; returns them as the base has them, in the base's type too."""
        import torch

        shape = (last - first, change["columns"])
        base = self._read("base", change, merged.dtype, first, shape)
        total = start = self._start(change, base, first, shape)
        a, b, magnitude = self._operands(change)
        if a is not None:
            delta = self._delta(change, a, b, first, last)
            total = self._total(start, delta.to(merged.dtype) if change["rounds"] and magnitude is None else delta)
            if magnitude is not None:
                total *= self._factor(change, magnitude, total, first, last)
        merged.copy_(total)
        if not _finite(merged if merged.dtype == torch.float16 else total):
            raise self._not_finite(change, base)
        return base

    def _start(self, change: Row, base: Any, first: int, shape: tuple[int, int]) -> Any:
        """The rows before the delta: the base's, or those that the adapter brings, in the base's type."""
        row = change["start"]
        return base if row is None else self._read("start", row, _dtype(row["dtype"]), first, shape).to(base.dtype)

    def _delta(self, change: Row, a: Any, b: Any, first: int, last: int) -> Any:
        """Rows of B @ A times the scale, in this order: scaling first would round otherwise."""
        import torch

        if change["transposed"]:
            product = torch.mm(b, a[:, first:last], out=self._buffer("delta", torch.float32, (change["columns"], last - first))).T
        else:
            product = torch.mm(b[first:last], a, out=self._buffer("delta", torch.float32, (last - first, change["columns"])))
        return product.mul_(change["scale"])

    def _total(self, start: Any, delta: Any) -> Any:
        import torch

        return self._buffer("total", torch.float32, tuple(start.shape)).copy_(start).add_(delta)

    def _factor(self, change: Row, magnitude: Any, total: Any, first: int, last: int) -> Any:
        """DoRA: magnitude over the norm of all that leads to one output, which is a row, or a column of a transposed weight."""
        import torch

        if not change["transposed"]:
            return (magnitude[first:last] / torch.linalg.norm(total, dim=1)).view(-1, 1)
        with self.merge.lock:  # a column's norm needs all rows: once for the whole tensor
            if change["name"] not in self.merge.factors:
                self.merge.factors[change["name"]] = magnitude / self._column_norms(change)
        return self.merge.factors[change["name"]].view(1, -1)

    def _column_norms(self, change: Row) -> Any:
        import torch

        hands = _Hands(self.merge)  # buffers of its own: they are as large as the tensor
        try:
            shape = (change["shape"][0], change["columns"])
            base = hands._read("base", change, _dtype(change["dtype"]), 0, shape)
            a, b, _ = hands._operands(change)
            total = hands._total(hands._start(change, base, 0, shape), hands._delta(change, a, b, 0, shape[0]))
            return torch.linalg.norm(total.T, dim=1)
        finally:
            hands.close()

    def _operands(self, change: Row) -> tuple[Any, Any, Any]:
        """The adapter's tensors for one change, whole and in fp32, kept while the thread is at it."""
        if self.operands[0] != change["name"]:
            self.operands = change["name"], {name: self._operand(change[name]) for name in ("a", "b", "magnitude")}
        found = self.operands[1]
        return found["a"], found["b"], found["magnitude"]

    def _operand(self, row: Row | None) -> Any:
        """A tensor of the adapter, whole, in fp32."""
        if row is None:
            return None
        import torch

        flat = torch.empty(math.prod(row["shape"]), dtype=_dtype(row["dtype"]))
        _fill(self._input(row["file"]), flat, row["offset"], row["file"])
        return flat.view(*row["shape"]).float()

    def _read(self, name: str, row: Row, dtype: Any, first: int, shape: tuple[int, int]) -> Any:
        rows = self._buffer(name, dtype, shape)
        _fill(self._input(row["file"]), rows, row["offset"] + first * shape[1] * rows.element_size(), row["file"])
        return rows

    def _buffer(self, name: str, dtype: Any, shape: tuple[int, ...]) -> Any:
        import torch

        items = shape[0] * shape[1]
        held = self.buffers.get((name, dtype))
        if held is None or held.numel() < items:
            held = self.buffers[name, dtype] = torch.empty(items, dtype=dtype)
        return held[:items].view(*shape)

    def _input(self, file: str) -> int:
        if file not in self.inputs:
            self.inputs[file] = os.open(file, os.O_RDONLY)
        return self.inputs[file]

    def _not_finite(self, change: Row, base: Any) -> Refused:
        parts = zip(("lora_A", "lora_B", "its magnitude vector"), self._operands(change), strict=True)
        bad = [name for name, tensor in parts if tensor is not None and not _finite(tensor)]
        adapter = next(row["file"] for row in (change["a"], change["start"]) if row is not None)
        if not _finite(base):
            cause = f"The base's {change['name']} in {change['file']} holds NaN or infinity."
            return Refused(cause, "Download or make this model again.")
        cause = f"{change['name']} would hold NaN or infinity after the merge: {' and '.join(bad) or 'the delta'} of {adapter} is broken."
        if not bad:
            cause = f"{change['name']} would leave the range of {change['dtype']} after the merge with {adapter}."
        return Refused(cause, "Train again with a lower learning rate, or take an earlier checkpoint. Nothing was kept.")


def _blocks(first: int, last: int, rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Rows `first` to `last` of `rows` in blocks that begin and end at multiples of GRID, a few rows more at the edges.

    None has fewer rows than GRID, unless the tensor has.
    """
    step = max(GRID, BLOCK_ITEMS // columns // GRID * GRID)
    first, last = first // GRID * GRID, min(-(-last // GRID) * GRID, rows)
    for start in range(first, last, step):
        end = min(start + step, last)
        yield (start if end - start >= GRID else max(0, start - GRID)), end


def _finite(tensor: Any) -> bool:
    """One pass where all is well: a sum is finite only if its parts are. A sum that overflowed is looked at again."""
    import torch

    return math.isfinite(tensor.sum(dtype=torch.float32).item()) or bool(torch.isfinite(tensor).all())


def _dtype(name: str) -> Any:
    import torch

    return {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[name]


def _bytes(tensor: Any) -> memoryview:
    import torch

    return memoryview(tensor.view(torch.uint8).numpy()).cast("B")


def _fill(descriptor: int, tensor: Any, offset: int, file: str) -> None:
    view, done = _bytes(tensor), 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if not count:
            raise _cut_off(file)
        done += count


def _cut_off(file: str) -> Refused:
    return Refused(f"{file} ended early: it changed while it was read.", "See that nobody writes there, and run it again.")


def through_peft(request: Row) -> dict[str, Any]:
    """The whole model in memory, PEFT's plain merge, save_pretrained; the base's own type throughout."""
    side.tell("progress", done=0, note="importing transformers and PEFT")
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    side.tell("progress", done=0, note="loading the base")
    started = time.monotonic()
    model = AutoModelForCausalLM.from_pretrained(request["base"], dtype="auto")
    side.tell("progress", done=0, note="loading the adapter")
    try:
        wrapped = PeftModel.from_pretrained(model, request["adapter"])
    except (RuntimeError, ValueError, TypeError) as error:
        raise Refused(
            f"PEFT cannot load {request['adapter']}: {str(error).strip()[:600]}", "See labkit.lora.check for what does not fit."
        ) from None
    side.tell("progress", done=0, note="merging")
    merged = wrapped.merge_and_unload()
    bad = next((name for name, tensor in merged.named_parameters() if not bool(torch.isfinite(tensor).all())), None)
    if bad is not None:
        raise Refused(
            f"{bad} holds NaN or infinity after the merge with {request['adapter']}.", "Take an earlier checkpoint. Nothing was kept."
        )
    side.tell("progress", done=0, note="saving")
    merged.save_pretrained(request["out"], max_shard_size="5GB")
    return {"changed": [], "threads": torch.get_num_threads(), "work_seconds": time.monotonic() - started}


def unpickle(request: Row) -> dict[str, Any]:
    """The tensors of an adapter_model.bin as safetensors; torch's weights_only lets nothing else through."""
    side.tell("progress", done=0, note="reading the pickle")
    import pickle

    import torch
    from safetensors.torch import save_file

    try:
        tensors = torch.load(request["pickle"], map_location="cpu", weights_only=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, request["out"])
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError) as error:
        cause = f"{request['pickle']} is no file of tensors: {str(error).strip()[:400]}"
        raise Refused(cause, "Have the adapter saved as safetensors by whoever trained it.") from None
    return {}


if __name__ == "__main__":
    side.answer(work)
