"""Merges a LoRA adapter into its base, from safetensors to safetensors, in little memory.

    merge(base, adapter, out)                   tensor by tensor, a few rows at a time, under 1 GiB whatever the model's size
    merge(base, adapter, out, method="peft")    PEFT's merge_and_unload, the whole model in memory

The result is PEFT's plain merge (0.21.2; not `safe_merge`, which rounds the delta before it is added): the same operations in the
same order, the delta in fp32 and one cast at the end. Shards and index are laid out as the base's, byte for byte where the
adapter changes nothing. Written to `OUT.merging` and renamed: what is called OUT is whole. A merge that was killed goes on
after the last whole shard, as long as its inputs are the same.

Covers: linear layers (GPT-2's transposed ones too), embeddings and heads that are not tied, rsLoRA, DoRA, rank and alpha patterns,
modules and biases trained whole. What it refuses by name: `models.adapter.NOT_MERGED`, and `check`'s findings.
Does not cover: quantised bases, several adapters at once, proving the result (`compare`). Used by notebook 06 as `labkit.lora.merge`.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..common import disk, files
from ..common.amounts import GIB, amount_text
from ..common.errors import LabError, NoSpace, SettingError
from ..common.files import require_empty
from ..models.adapter import Adapter
from ..models.adapter_folders import CONFIG, WEIGHTS
from ..models.headers import INDEX, Weights, read_header, read_json
from ..workers import launch
from ..workers.merge_job import MergeRequest, MergeResult, PeftRequest, UnpickleRequest
from ..workers.messages import parse
from . import companions, drafts, layout, tokenizers
from .changes import Pairing
from .checks import look
from .companions import RECORD
from .drafts import Draft
from .findings import CheckReport
from .tokenizers import Tokenizer

WORKER = launch.SCRIPTS / "merge_worker.py"
METHODS = ("labkit", "peft")


@dataclass(frozen=True)
class Merged:
    """A finished merge. `tensors` were in the base, `changed` of them are other now; `resumed` shards came from an earlier call.

    `seconds` is the whole call, `peak_bytes` the most memory that the worker process held, `bytes` the size of the weights.
    `report` is what `check` found; with findings to look at, look.
    """

    folder: Path
    base: Path
    adapter: Path
    method: str
    tensors: int
    changed: int
    bytes: int
    seconds: float
    peak_bytes: int
    resumed: int = 0
    report: CheckReport | None = field(default=None, repr=False, compare=False)

    @property
    def record(self) -> dict[str, Any]:
        """What labkit-merge.json in the merged folder holds: base, adapter, digests, scales."""
        return read_json(self.folder / RECORD)

    def __str__(self) -> str:
        parts = [
            f"{self.folder}: {self.changed} of {self.tensors} tensors changed",
            f"{amount_text(self.bytes, 'B')} in {self.seconds:.1f} s",
            *([f"{self.resumed} shards of it from an earlier call"] if self.resumed else []),
            f"at most {self.peak_bytes / GIB:.2f} GiB of memory ({self.method})",
            *([f"{len(self.report.findings)} findings to look at"] if self.report and self.report.findings else []),
        ]
        return ", ".join(parts)


def merge(
    base: Path | str,
    adapter: Path | str,
    out: Path | str,
    *,
    method: str = "labkit",
    tokenizer: str = "base",
    accept: Iterable[str] = (),
    allow_pickle: bool = False,
    resume: bool = True,
) -> Merged:
    """Write base + adapter to `out`, a folder that can be served as it is, and return what was done.

    `tokenizer`: whose tokenizer and chat template the result gets, "base" or "adapter". `accept`: kinds of blocking findings that
    you looked at and go on with (`CheckReport`); what cannot be computed cannot be accepted. `resume`: go on from a killed call.
    Inputs are only read. Leaves to the caller: proving that it answers the same (`compare`), making it current (`promote`).

    Raises before anything is written: `SettingError` (unknown method, `out` not empty), `LabError` (what `check` blocks on; a
    pickle that was not asked for; this adapter is in this base already), `VerificationError` (missing or damaged file), `NoSpace`.
    Later: `LabError` naming the tensor for NaN or infinity, and for a merge that changed nothing (nothing is kept of either);
    `NoSpace` for a disk that filled up, after which whole shards are kept for the next call.
    """
    started = time.monotonic()
    _require_choice("method", method, METHODS)
    _require_choice("tokenizer", tokenizer, ("base", "adapter"))
    target = require_empty(out, "A merge writes into a folder of its own.")
    weights, read = Weights.read(base), Adapter.read(adapter, allow_pickle=allow_pickle)
    if tokenizer == "adapter" and not any(name.startswith("tokenizer.") for name in Tokenizer(read.folder).files):
        raise SettingError(f"{read.folder} brings no tokenizer.", 'Use tokenizer="base".')
    for source in (weights.folder, read.folder):
        if target.is_relative_to(source) or source.is_relative_to(target):
            raise SettingError(f"{target} and {source} lie in one another.", "Give a folder beside them.")
    with ExitStack() as stack:
        whole = stack.enter_context(_unpickled(read)) if read.pickled else read
        job = _Merge(weights, whole, target, method, tokenizer)
        job.require_new()
        report, job.pairing = look(weights, whole, started=started)
        _require_mergeable(report, method, accept)
        done = job.run(resume)
    return replace(done, seconds=time.monotonic() - started, report=report)


def _require_choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise SettingError(f"There is no {name} {value!r}.", f"Use {' or '.join(map(repr, known))}.")


def _require_mergeable(report: CheckReport, method: str, accept: Iterable[str]) -> None:
    """The findings that block this merge. What cannot be computed is not a matter of taste, except that PEFT may be able to."""
    accepted, peft = tuple(accept), method == "peft"
    if report.blocking(accepted, peft=peft):
        raise report.error(accepted, peft=peft)


@contextmanager
def _unpickled(adapter: Adapter) -> Iterator[Adapter]:
    """The same adapter with its tensors in safetensors, in a folder that goes away."""
    with tempfile.TemporaryDirectory(prefix="labkit-adapter-") as folder:
        weights = Path(folder) / WEIGHTS
        launch.run(WORKER, asdict(UnpickleRequest(str(adapter.weights), str(weights))), title=f"Reading {adapter.weights.name}")
        shutil.copy(adapter.folder / CONFIG, folder)
        yield replace(adapter, tensors=read_header(weights), weights=weights)


class _Merge:
    """One merge: its draft, its worker, its finish."""

    def __init__(self, base: Weights, adapter: Adapter, target: Path, method: str, tokenizer: str) -> None:
        self.base, self.adapter, self.target, self.pairing = base, adapter, target, Pairing()
        self.method, self.tokenizer = method, tokenizer
        self.inputs = drafts.inputs(base, adapter, method)
        self.draft = Draft(target, self.inputs)
        self.broken = False

    def require_new(self) -> None:
        """Raises `LabError` where the base is itself a merge of this adapter."""
        merged = self.base.folder / RECORD
        if merged.is_file() and read_json(merged).get("adapter", {}).get("digests") == self.inputs["adapter"]:
            raise LabError(
                f"{self.base.folder} holds {self.adapter.folder.name} already ({merged}).",
                "Merged twice, its delta counts twice. Name the base that the adapter was trained on.",
            )

    def run(self, resume: bool) -> Merged:
        with self.draft.locked():
            resumed = self.draft.resume({file.name: file.stat().st_size for file in self.base.files} if resume else {})
            try:
                self._require_room()
                return self._merge(resumed)
            except BaseException as error:
                self.draft.sweep(resumable=self.method == "labkit" and not self.broken)
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise NoSpace(f"The disk of {self.draft.folder} is full.", "Free some space there, and run it again.") from None
                raise

    def _merge(self, resumed: int) -> Merged:
        peak_bytes, changed = self._through_labkit() if self.method == "labkit" else self._through_peft()
        if not changed:
            self.broken = True
            raise LabError(
                f"The merge changed nothing: no tensor of {self.base.folder.name} is other than before.",
                f"{self.adapter.weights.name} holds an adapter that was not trained (lora_B is zero), or its scale is far too small.",
            )
        self._complete()
        files.save(self.draft.folder / RECORD, self._record(changed, peak_bytes))
        self.draft.publish()
        return Merged(
            folder=self.target,
            base=self.base.folder,
            adapter=self.adapter.folder,
            method=self.method,
            tensors=len(self.base.tensors),
            changed=changed,
            bytes=Weights.read(self.target).bytes,
            seconds=0.0,
            peak_bytes=peak_bytes,
            resumed=resumed,
        )

    def _through_labkit(self) -> tuple[int, int]:
        """The worker's peak of memory in bytes, and how many tensors changed."""
        changes = {change.target.name: change for change in self.pairing.changes}
        shards = tuple(layout.shard_job(self.base, file, self.draft.folder / file.name, changes) for file in self._missing())
        result = MergeResult()
        if shards:
            total = sum(shard.size for shard in shards)
            options: dict[str, Any] = {"total": total, "unit": "B", "on_event": self._take_down}
            result = parse(MergeResult, launch.run(WORKER, asdict(MergeRequest(shards)), title=self._title(), **options))
        return result.peak_bytes, sum(map(len, self.draft.shards.values()))

    def _through_peft(self) -> tuple[int, int]:
        """As `_through_labkit`."""
        _require_memory(self.base.bytes)
        request = PeftRequest(str(self.base.folder), str(self.adapter.weights.parent), str(self.draft.folder))
        result = parse(MergeResult, launch.run(WORKER, asdict(request), title=f"{self._title()} with PEFT"))
        merged = Weights.read(self.draft.folder)
        names = [change.target.name for change in self.pairing.changes]
        changed = layout.changed_names(self.base, merged, names) or layout.changed_names(self.base, merged, self.base.tensors)
        return result.peak_bytes, len(changed)

    def _title(self) -> str:
        return f"Merging {self.adapter.folder.name} into {self.base.folder.name}"

    def _missing(self) -> list[Path]:
        """The base's files that the draft does not hold yet."""
        return [file for file in self.base.files if file.name not in self.draft.shards]

    def _take_down(self, event: dict[str, Any]) -> None:
        if event["event"] == "broken":
            self.broken = True
        elif event["event"] == "shard":
            self.draft.add(event["name"], event["changed"])

    def _require_room(self) -> None:
        to_write = sum(file.stat().st_size for file in [*self._missing(), *companions.files(self.base.folder).values()])
        disk.require({self.draft.folder: to_write + disk.MARGIN})

    def _complete(self) -> None:
        """Everything beside the weights, config.json last."""
        beside = companions.files(self.base.folder)
        if self.tokenizer == "adapter":
            others = {name: path for name, path in beside.items() if name not in tokenizers.FILES}
            beside = others | Tokenizer(self.adapter.folder).files
        index = self.base.folder / INDEX
        if self.method == "labkit" and index.is_file():
            beside[index.name] = index
        for name, path in sorted(beside.items(), key=lambda item: item[0] == "config.json"):
            copy = self.draft.folder / name
            if self.method == "labkit" or not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)

    def _record(self, changed: int, peak_bytes: int) -> dict[str, Any]:
        adapter = self.adapter
        scales = Counter(f"{change.scale:g}" for change in self.pairing.changes if change.a is not None)
        return {
            "version": 1,
            "method": self.method,
            "made": time.strftime("%Y-%m-%d %H:%M:%S"),
            "base": {"folder": str(self.base.folder), "files": self.inputs["base"]},
            "adapter": {
                "folder": str(adapter.folder),
                "trained_on": adapter.base_name,
                "rank": adapter.rank,
                "digests": self.inputs["adapter"],
            },
            "scales": dict(scales),
            "tokenizer": self.tokenizer,
            "tensors": len(self.base.tensors),
            "changed": changed,
            "peak_bytes": peak_bytes,
        }


def _require_memory(model: int) -> None:
    import psutil

    free = psutil.virtual_memory().available
    if free < model * 1.1:
        raise LabError(
            f"PEFT holds the whole model in memory, {amount_text(model * 1.1, 'B')}; {amount_text(free, 'B')} are free.",
            'Use method="labkit", which needs less than 1 GiB.',
        )
