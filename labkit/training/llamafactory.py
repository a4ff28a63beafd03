"""Trains and exports with LLaMA-Factory: labkit writes its YAML, runs its command in its own environment, explains its errors.

    training = labkit.llamafactory.train(base, incidents.conversations("train", 512), out)
    labkit.llamafactory.export(base, training.folder, merged)

The second way beside `finetune`: a tool that is driven by a file. The file, and the data that it names, stay in the adapter's
folder, so that `cd <out> && llamafactory-cli train train.yaml` is the same training again. The adapter is an ordinary PEFT folder;
`lora.merge` takes it as it takes one of `finetune`.

What is learnt: only the last reply of a conversation (`mask_history`), with its <think> block as given. LLaMA-Factory has chat
templates of its own, by name; without a name it reads the base's, which keeps the text as it is. Templates for reasoning models
put an empty <think> block before replies that have none. What it makes of the longest conversation is held against what was given
before the first step: a template that changes the reply, and a `max_length` that cuts it, which LLaMA-Factory does without a
word, are errors.

Covers: supervised LoRA and QLoRA on conversations, export (its merge). Does not cover: its other stages, its web page.
Checked against LLaMA-Factory 0.9.5. Used by notebook 06.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from ..common import disk
from ..common.amounts import amount_text
from ..common.errors import LabError, SettingError
from ..common.files import draft, require_empty
from ..common.logs import Explanation
from ..lora import checks
from ..models import manifests
from ..models.adapter import Adapter
from ..models.folders import require_model
from ..models.headers import Weights, read_json
from ..runtimes import environments
from ..workers import commands
from ..workers.commands import Ran
from . import record
from .finetune import Messages

ENGINE = "llamafactory"
COMMAND = "llamafactory-cli"
TRAIN_FILE, EXPORT_FILE, RECORD = "train.yaml", "export.yaml", "training.json"
DATA, DATASET = "data", "conversations"
LOG = "trainer_log.jsonl"
SHARD_GB = 5
ROOM = 2 * 10**9
"""Bytes asked for where the adapter goes: rank 64 on every projection of an 8B model is 0.7 GB in fp32."""
RESUMES = "LLaMA-Factory goes on, without a word, from a training that it finds where it shall write."
TRAINABLE = re.compile(r"trainable params: ([\d,]+) \|\| all params: ([\d,]+)")
ENVIRONMENT = {"USE_MODELSCOPE_HUB": "0", "USE_OPENMIND_HUB": "0"}
OWN = ("model_name_or_path", "dataset_dir", "dataset", "output_dir", "do_train", "stage")
"""Lines of the YAML that are labkit's."""

KNOWN = (
    Explanation(
        r"ValueError: Template (\S+) does not exist",
        "it has no chat template called {0}",
        "Leave template=None: it then reads the base's own. Its names are in its README (qwen3, qwen3_nothink, deepseekr1 ...).",
    ),
    Explanation(
        r"ValueError: A placeholder is required in the string formatter",
        "it cannot read the base's own chat template, which is so with one that opens <think> itself",
        'Name one of its templates: template="deepseekr1" for the R1 distillates.',
    ),
    Explanation(
        r"ValueError: Some keys are not used by the HfArgumentParser: (\[.*\])",
        "it does not know these settings: {0}",
        "Look for a slip of the pen; all its settings are listed by: llamafactory-cli train -h.",
    ),
    Explanation(
        r"The 'bitsandbytes\S*' distribution was not found|No package metadata was found for bitsandbytes",
        "training on a 4-bit base needs bitsandbytes, which this environment does not have",
        "four_bit=False; or on a GPU the environment that labkit makes, which has it: unset LABKIT_RUNTIME_LLAMAFACTORY.",
    ),
    Explanation(
        r"(\S+) is required for a normal functioning of this module, but found (\S+)\.",
        "its environment has {1}, and it asks for {0}",
        "Let labkit make the environment: unset LABKIT_RUNTIME_LLAMAFACTORY; or install what it asks for there.",
    ),
    Explanation(
        r"ValueError: Target modules? \{?(.+?)\}? not found in the base model",
        "the base has no modules called {0}",
        'targets="all-linear", or names from the base, such as ["q_proj", "v_proj"].',
    ),
    Explanation(
        r"CUDA out of memory|OutOfMemoryError",
        "the GPU's memory is full",
        "A smaller batch (and accumulate= for the same effect), a smaller max_length, or four_bit=True; ./lab down stops servers.",
    ),
    Explanation(
        r"No space left on device",
        "the disk is full",
        "Free some space where the adapter goes.",
    ),
)
"""What LLaMA-Factory 0.9.5 says, and what it means. Seen here, but for the two of a full GPU and a full disk."""


@dataclass(frozen=True)
class Example:
    """The longest conversation as LLaMA-Factory feeds it: the whole text, and the part that is learnt, both with special tokens."""

    text: str
    learnt: str

    def __str__(self) -> str:
        before = self.text.removesuffix(self.learnt).rstrip("\n")
        return f"--- read, not learnt\n{before}\n--- learnt\n{self.learnt}"


@dataclass(frozen=True, repr=False)
class Training(record.Training):
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
) -> Training:
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
    _require_turns(conversations)
    _require_further(more)
    if template is None and not _has_template(source):
        raise SettingError(
            f"{source} has no chat template; LLaMA-Factory would train on the bare text, without a mark of who speaks.",
            'Name one of its templates that fits the model: template="qwen3_nothink", "llama3" ...',
        )
    _require_positive(
        rank=rank, alpha=alpha, steps=steps, batch=batch, accumulate=accumulate, learning_rate=learning_rate, max_length=max_length
    )
    if four_bit and not _on_gpu():
        raise SettingError("four_bit trains on a base that a GPU holds in 4 bits; this machine shows no GPU.", "four_bit=False.")
    disk.require({target: min(ROOM, Weights.read(source).bytes)})
    asked: dict[str, Any] = {"rank": rank, "alpha": alpha, "targets": targets if isinstance(targets, str) else ",".join(targets)}
    asked |= {"steps": steps, "batch": batch, "accumulate": accumulate, "learning_rate": learning_rate, "max_length": max_length}
    asked |= {"template": template, "four_bit": four_bit, "seed": seed, **more}
    text = yaml_text(_training_sections(source, asked, gpu=_on_gpu()), more)
    return _Job(source, target, text).train([[dict(message) for message in one] for one in conversations], asked)


def export(base: str | Path, adapter: str | Path, out: str | Path, *, template: str | None = None) -> Exported:
    """Merge `adapter` into `base` with LLaMA-Factory and write the model to `out`; prints the YAML, shows progress.

    The same arithmetic as PEFT's merge, in as much memory as the whole model takes; `lora.merge` does it in 1 GiB and says what it
    changed. `template` as for `train`. `out` must not be there or be empty, and appears whole or not at all. Raises as `train` does,
    and the first blocking finding of `lora.check`.
    """
    source, given, target = require_model(base), Adapter.read(adapter).folder, require_empty(out)
    report = checks.check(source, given)
    if not report:
        raise report.error()
    disk.require({target: Weights.read(source).bytes})
    lines = {"model_name_or_path": str(source), "adapter_name_or_path": str(given), "finetuning_type": "lora", **_template(template)}
    ways = {"export_dir": ".", "export_size": SHARD_GB, "export_device": "cpu", "export_legacy_format": False}
    text = yaml_text({"model": lines, "export": ways}, {})
    return _Job(source, target, text).export(given)


def _training_sections(base: Path, asked: Mapping[str, Any], *, gpu: bool) -> dict[str, dict[str, Any]]:
    """What LLaMA-Factory calls the settings. Paths other than the base's are relative: the folder may be moved."""
    quantised = {"quantization_bit": 4, "quantization_method": "bnb"} if asked["four_bit"] else {}
    return {
        "model": {"model_name_or_path": str(base), **quantised},
        "method": {
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "lora",
            "lora_rank": asked["rank"],
            "lora_alpha": asked["alpha"],
            "lora_target": "all" if asked["targets"] == "all-linear" else asked["targets"],
        },
        "data": {
            "dataset_dir": DATA,
            "dataset": DATASET,
            **_template(asked["template"]),
            "cutoff_len": asked["max_length"],
            "mask_history": True,
            "overwrite_cache": True,
        },
        "training": {
            "per_device_train_batch_size": asked["batch"],
            "gradient_accumulation_steps": asked["accumulate"],
            "max_steps": asked["steps"],
            "learning_rate": asked["learning_rate"],
            "lr_scheduler_type": "cosine",
            "bf16": True,
            "seed": asked["seed"],
            **({} if gpu else {"use_cpu": True}),
        },
        "output": {"output_dir": ".", "save_strategy": "no", "logging_steps": 1, "report_to": "none"},
    }


def _template(name: str | None) -> dict[str, str]:
    return {"template": name} if name else {}


def yaml_text(sections: Mapping[str, Mapping[str, Any]], more: Mapping[str, Any]) -> str:
    """The settings as LLaMA-Factory's own examples write them: one a line, under headings. `more` wins over a line of the same name."""
    left = dict(more)
    parts = []
    for heading, lines in sections.items():
        parts.append(_block(heading, {name: left.pop(name, value) for name, value in lines.items()}))
    return "\n".join([*parts, *([_block("more", left)] if left else [])])


def _block(heading: str, lines: Mapping[str, Any]) -> str:
    return f"### {heading}\n{yaml.safe_dump(dict(lines), sort_keys=False, allow_unicode=True, width=1000)}"


class _Job:
    """One call: a draft folder that is the working directory, the YAML in it, the command, and the rename."""

    def __init__(self, base: Path, out: Path, text: str) -> None:
        self.base, self.out, self.text = base, out, text
        self.started = time.monotonic()
        self.runtime = environments.install(ENGINE)
        self.program = self.runtime.python.parent / COMMAND
        if not self.program.exists():
            raise SettingError(f"{self.program} is not there.", f"LABKIT_RUNTIME_LLAMAFACTORY must name a Python beside {COMMAND}.")

    def train(self, conversations: list[list[dict[str, str]]], asked: dict[str, Any]) -> Training:
        losses: list[float] = []
        longest_first = sorted(conversations, key=lambda one: -sum(len(message["content"]) for message in one))
        reader = _ExampleReader(longest_first[0])
        with draft(self.out, ENGINE) as folder:
            _write_dataset(folder / DATA, longest_first)
            ran = self._run(
                folder,
                TRAIN_FILE,
                title=f"LLaMA-Factory trains {self.out.name}",
                total=asked["steps"],
                unit="steps",
                steps=folder / LOG,
                on_output=reader.take,
                on_step=lambda step: losses.append(step["loss"]) if "loss" in step else None,
            )
            counts = TRAINABLE.search(ran.output)
            if ran.code or not (folder / "adapter_model.safetensors").exists() or not counts or not losses or reader.example is None:
                raise ran.error("LLaMA-Factory did not train", KNOWN)
            made = Training(
                folder=self.out,
                base=str(self.base),
                losses=tuple(losses),
                seconds=round(time.monotonic() - self.started, 1),
                trainable=int(counts[1].replace(",", "")),
                total=int(counts[2].replace(",", "")),
                conversations=len(conversations),
                settings={**asked, "batch": asked["batch"] * asked["accumulate"]},
                yaml=self.text,
                example=reader.example,
                version=self.runtime.versions[ENGINE],
            )
            (folder / RECORD).write_text(json.dumps({**asdict(made), "folder": self.out.name}, indent=1) + "\n", encoding="utf-8")
            (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle: nothing of ours should ask anybody to load it
        return made

    def export(self, adapter: Path) -> Exported:
        with draft(self.out, ENGINE) as folder:
            ran = self._run(folder, EXPORT_FILE, title=f"LLaMA-Factory merges {self.out.name}")
            _, wrong = manifests.read_tensors(folder, required=True)
            if ran.code or wrong:
                raise ran.error(f"LLaMA-Factory did not export{f' ({wrong[0]})' if wrong and not ran.code else ''}", KNOWN)
            return Exported(
                self.out, str(self.base), str(adapter), Weights.read(folder).bytes, round(time.monotonic() - self.started, 1), self.text
            )

    def _run(self, folder: Path, file: str, **how: Any) -> Ran:
        (folder / file).write_text(self.text, encoding="utf-8")
        command: list[str | Path] = [self.program, Path(file).stem, file]
        print(f"{self.text}\n{commands.pasteable(command)}    (in {folder}, which becomes {self.out})", flush=True)
        return commands.run(command, folder, environment=ENVIRONMENT, **how)


class _ExampleReader:
    """Finds in what LLaMA-Factory prints the first training example, and holds it against the conversation that it was made of."""

    def __init__(self, conversation: Sequence[Mapping[str, str]]) -> None:
        self.conversation = conversation
        self.example: Example | None = None
        self._part = ""
        self._lines: dict[str, list[str]] = {"inputs:": [], "labels:": []}

    def take(self, line: str) -> None:
        """One line of output. Raises `LabError` where the example is not what was given."""
        if self.example is not None:
            return
        if line in ("training example:", "input_ids:", "inputs:", "label_ids:", "labels:") and (self._part or line == "training example:"):
            self._part = line
        elif self._part == "labels:" and re.match(r"\[(INFO|WARNING|ERROR)\|", line):
            self.example = Example(*("\n".join(lines).rstrip("\n") for lines in self._lines.values()))
            self._compare(self.example)
        elif self._part in self._lines:
            self._lines[self._part].append(line)

    def _compare(self, example: Example) -> None:
        """Spaces and line ends aside, which tokenizers decode each in their own way."""
        text, learnt = _squeezed(example.text), _squeezed(example.learnt)
        position = 0
        for number, message in enumerate(self.conversation):
            found = text.find(_squeezed(message["content"]), position)
            if found < 0:
                raise self._error(f"its message {number} ({message['role']}) is not in what is read, at least not whole", example)
            position = found + len(_squeezed(message["content"]))
        if not learnt.startswith(_squeezed(self.conversation[-1]["content"])):
            raise self._error("what is learnt is not its last reply", example)

    def _error(self, what: str, example: Example) -> LabError:
        return LabError(
            f"LLaMA-Factory makes something else of the longest conversation: {what}.\n{example}",
            "Give a larger max_length if it was cut off, or another template (None takes the base's own). Nothing was trained.",
        )


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _write_dataset(folder: Path, conversations: list[list[dict[str, str]]]) -> None:
    """The conversations, and the file by which LLaMA-Factory finds and reads them ("sharegpt" is its name for lists of messages)."""
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}
    info = {DATASET: {"file_name": f"{DATASET}.json", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}}
    folder.mkdir()
    rows = [{"messages": messages} for messages in conversations]
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
    (folder / f"{DATASET}.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _require_turns(conversations: Sequence[Messages]) -> None:
    """LLaMA-Factory leaves out, with one line in its log, a conversation in any other order."""
    if not conversations:
        raise SettingError("There are no conversations to learn from.", "Give a list of conversations, each a list of messages.")
    for number, one in enumerate(conversations):
        roles = [str(message.get("role")) for message in one]
        turns = roles[1:] if roles[:1] == ["system"] else roles
        if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
            raise SettingError(
                f"Conversation {number} has the roles {', '.join(roles) or '(none)'}.",
                "Give at most one system message, at the start, and then user and assistant in turn.",
            )
        if not all(isinstance(message.get("content"), str) for message in one):
            raise SettingError(f"Conversation {number} has a message without text.", 'Messages are {"role": "user", "content": "..."}.')


def _require_further(more: Mapping[str, Any]) -> None:
    if taken := [name for name in OWN if name in more]:
        raise SettingError(f"{', '.join(taken)}: labkit writes this itself.", "Use base=, conversations= and out=.")


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0 or (name != "learning_rate" and not isinstance(value, int)):
            kind = "a positive number" if name == "learning_rate" else "a whole number, 1 or more"
            raise SettingError(f"{name} is {value!r}.", f"Give {kind}.")


def _has_template(base: Path) -> bool:
    """Whether the base's tokenizer brings one chat template; of several by name LLaMA-Factory takes none."""
    told = base / "tokenizer_config.json"
    return (base / "chat_template.jinja").is_file() or (told.is_file() and isinstance(read_json(told).get("chat_template"), str))


def _on_gpu() -> bool:
    from ..machine.gpu import devices

    return bool(devices())
