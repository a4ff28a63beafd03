"""Trains and exports with LLaMA-Factory: labkit writes its YAML, runs its command in its own environment, explains its errors.

    training = labkit.training.llamafactory.train(base, incidents.conversations("train", 512), out)
    labkit.training.llamafactory.export(base, training.folder, merged)

The second way beside `finetune`: a tool that is driven by a file. The file, and the data that it names, stay in the adapter's
folder, so that `cd <out> && llamafactory-cli train train.yaml` is the same training again. The adapter is an ordinary PEFT folder;
`lora.merge` takes it as it takes one of `finetune`.

What is learnt: only the last reply of a conversation (`mask_history`), with its <think> block as given. LLaMA-Factory has chat
templates of its own, by name; without a name it reads the base's, which keeps the text as it is. Templates for reasoning models
put an empty <think> block before replies that have none. What it makes of the longest conversation is held against what was given
(`llamafactory_example`).

Covers: supervised LoRA and QLoRA on conversations, export (its merge). Does not cover: the files that it reads
(`llamafactory_files`), its other stages, its web page.
Checked against LLaMA-Factory 0.9.5. Used by notebook 06.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..common import disk
from ..common.amounts import amount_text
from ..common.errors import SettingError
from ..common.files import draft, require_empty
from ..lora import checks
from ..models import manifests
from ..models.adapter import Adapter
from ..models.folders import require_model
from ..models.headers import Weights, read_json
from ..runtimes import environments
from ..workers import commands
from ..workers.commands import CommandResult
from . import record
from .conversations import Messages, copied, require_turns
from .llamafactory_example import Example, ExampleReader
from .llamafactory_files import DATA, FactorySettings, export_yaml, require_further, training_yaml, write_dataset
from .record import MAX_ADAPTER_BYTES

ENGINE = "llamafactory"
COMMAND = "llamafactory-cli"
TRAIN_FILE, EXPORT_FILE = "train.yaml", "export.yaml"
LOG = "trainer_log.jsonl"
RESUMES = "LLaMA-Factory goes on, without a word, from a training that it finds where it shall write."
TRAINABLE = re.compile(r"trainable params: ([\d,]+) \|\| all params: ([\d,]+)")
ENVIRONMENT = {"USE_MODELSCOPE_HUB": "0", "USE_OPENMIND_HUB": "0"}


@dataclass(frozen=True, repr=False)
class FactoryTraining(record.Training):
    """A finished training. `yaml` is the file that LLaMA-Factory was told by, `example` the longest conversation as it read it."""

    yaml: str
    example: Example
    version: str

    def __str__(self) -> str:
        return f"{self.folder}: LLaMA-Factory {self.version}, {self.amounts()}"

    __repr__ = __str__


@dataclass(frozen=True)
class Exported:
    """A merged model folder that `export` wrote; `yaml` is the file that LLaMA-Factory was told by, `bytes` those of the weights."""

    folder: Path
    base: str
    adapter: str
    bytes: int
    seconds: float
    yaml: str

    def __str__(self) -> str:
        return (
            f"{self.folder}: {self.base} with {self.adapter} merged in by LLaMA-Factory, "
            f"{amount_text(self.bytes, 'B')}, {self.seconds:.0f} s"
        )

    __repr__ = __str__


def train(
    base: str | Path,
    conversations: Sequence[Messages],
    out: str | Path,
    *,
    rank: int = 8,
    alpha: int = 16,
    targets: str | Sequence[str] = "all-linear",
    steps: int = 100,
    batch: int = 8,
    accumulate: int = 1,
    learning_rate: float = 1e-4,
    max_length: int = 2048,
    template: str | None = None,
    four_bit: bool = False,
    seed: int = 0,
    **more: Any,
) -> FactoryTraining:
    """Train an adapter for the model in folder `base` on `conversations` and write it to `out`; prints the YAML, shows progress.

    Each conversation is a list of {"role", "content"}: a system message or none, then user and assistant in turn; the last reply is
    what is learnt. `alpha` / `rank` scales what the adapter adds. `batch` conversations are read at once on each GPU, `accumulate`
    times before a step. `max_length` is in tokens. `template` names one of LLaMA-Factory's chat templates; None takes the base's own.
    `four_bit` (GPU only) is QLoRA, see `finetune`. `more` are further lines of the YAML, as LLaMA-Factory calls them.

    Leaves `base` as it is. `out` must not be there or be empty (LLaMA-Factory would go on from what it finds, without a word) and
    appears whole or not at all. Raises, before anything is written: `SettingError`, `NoSpace`, and what making the environment
    raises; later `LabError` with LLaMA-Factory's own words.
    """
    source, target = require_model(base), require_empty(out, RESUMES)
    require_turns(conversations)
    require_further(more)
    if template is None and not _has_template(source):
        raise SettingError(
            f"{source} has no chat template; LLaMA-Factory would train on the bare text, without a mark of who speaks.",
            'Name one of its templates that fits the model: template="qwen3_nothink", "llama3" ...',
        )
    settings = FactorySettings(
        rank=rank,
        alpha=alpha,
        targets=targets if isinstance(targets, str) else ",".join(targets),
        steps=steps,
        batch=batch,
        accumulate=accumulate,
        learning_rate=learning_rate,
        max_length=max_length,
        template=template,
        four_bit=four_bit,
        seed=seed,
    )
    settings.require_positive()
    if four_bit and not _on_gpu():
        raise SettingError("four_bit trains on a base that a GPU holds in 4 bits; this machine shows no GPU.", "four_bit=False.")
    disk.require({target: min(MAX_ADAPTER_BYTES, Weights.read(source).bytes)})
    job = _FactoryRun(source, target, training_yaml(source, settings, more, gpu=_on_gpu()))
    return job.train(copied(conversations), steps, {**asdict(settings), "batch": batch * accumulate, **more})


def export(base: str | Path, adapter: str | Path, out: str | Path, *, template: str | None = None) -> Exported:
    """Merge `adapter` into `base` with LLaMA-Factory and write the model to `out`; prints the YAML, shows progress.

    The same arithmetic as PEFT's merge, in as much memory as the whole model takes; `lora.merge` does it in 1 GiB and says what it
    changed. `template` as for `train`. `out` must not be there or be empty, and appears whole or not at all. Raises as `train` does,
    and the first blocking finding of `lora.check`.
    """
    source, adapter_folder, target = require_model(base), Adapter.read(adapter).folder, require_empty(out)
    report = checks.check(source, adapter_folder)
    if not report:
        raise report.error()
    disk.require({target: Weights.read(source).bytes})
    return _FactoryRun(source, target, export_yaml(source, adapter_folder, template)).export(adapter_folder)


class _FactoryRun:
    """One call: a draft folder that is the working directory, the YAML in it, the command, and the rename."""

    def __init__(self, base: Path, out: Path, text: str) -> None:
        self.base, self.out, self.text = base, out, text
        self.started = time.monotonic()
        self.runtime = environments.install(ENGINE)
        self.program = self.runtime.python.parent / COMMAND
        if not self.program.exists():
            raise SettingError(f"{self.program} is not there.", f"LABKIT_RUNTIME_LLAMAFACTORY must name a Python beside {COMMAND}.")

    def train(self, conversations: list[list[dict[str, str]]], steps: int, settings: dict[str, Any]) -> FactoryTraining:
        """`settings` are those of the record."""
        losses: list[float] = []
        longest_first = sorted(conversations, key=lambda messages: -sum(len(message["content"]) for message in messages))
        reader = ExampleReader(longest_first[0])
        with draft(self.out, ENGINE) as folder:
            write_dataset(folder / DATA, longest_first)
            result = self._run(
                folder,
                TRAIN_FILE,
                title=f"LLaMA-Factory trains {self.out.name}",
                total=steps,
                unit="steps",
                steps=folder / LOG,
                on_output=reader.take,
                on_step=lambda step: losses.append(step["loss"]) if "loss" in step else None,
            )
            counts = TRAINABLE.search(result.output)
            if result.code or not (folder / "adapter_model.safetensors").exists() or not counts or not losses or reader.example is None:
                raise result.error("LLaMA-Factory did not train", ENGINE)
            training = FactoryTraining(
                folder=self.out,
                base=str(self.base),
                losses=tuple(losses),
                seconds=self._seconds(),
                trainable=int(counts[1].replace(",", "")),
                total=int(counts[2].replace(",", "")),
                conversations=len(conversations),
                settings=settings,
                yaml=self.text,
                example=reader.example,
                version=self.runtime.versions[ENGINE],
            )
            training.save(folder)
            (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle: nothing of ours should ask anybody to load it
        return training

    def export(self, adapter: Path) -> Exported:
        with draft(self.out, ENGINE) as folder:
            result = self._run(folder, EXPORT_FILE, title=f"LLaMA-Factory merges {self.out.name}")
            _, errors = manifests.read_tensors(folder, required=True)
            if result.code or errors:
                detail = f" ({errors[0]})" if errors and not result.code else ""
                raise result.error(f"LLaMA-Factory did not export{detail}", ENGINE)
            return Exported(self.out, str(self.base), str(adapter), Weights.read(folder).bytes, self._seconds(), self.text)

    def _run(self, folder: Path, file: str, **options: Any) -> CommandResult:
        (folder / file).write_text(self.text, encoding="utf-8")
        argv: list[str | Path] = [self.program, Path(file).stem, file]
        print(f"{self.text}\n{commands.pasteable(argv)}    (in {folder}, which becomes {self.out})", flush=True)
        return commands.run(argv, folder, environment=ENVIRONMENT, **options)

    def _seconds(self) -> float:
        return round(time.monotonic() - self.started, 1)


def _has_template(base: Path) -> bool:
    """Whether the base's tokenizer brings one chat template; of several by name LLaMA-Factory takes none."""
    config = base / "tokenizer_config.json"
    return (base / "chat_template.jinja").is_file() or (config.is_file() and isinstance(read_json(config).get("chat_template"), str))


def _on_gpu() -> bool:
    from ..machine.gpu import visible

    return bool(visible())
