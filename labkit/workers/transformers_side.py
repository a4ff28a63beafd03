"""What labkit's workers do with transformers and PEFT: load a folder, write a conversation as tokens, pad, generate.

Runs in the vLLM environment and is imported by the worker scripts beside it, never by labkit itself. torch,
transformers and peft are imported where they are used: what needs none of them can be tried without them.

What is learnt and what is compared is one reply: the tokens from the end of the prompt, as the chat template writes it for
an answer, to the end of the turn. The reply's own text goes in as it is, with its <think> block, also where the template
would drop old reasoning from a finished conversation: it is what the model has to write.
Used by notebook 06 through `training.finetune`, `evaluation.offline` and `lora.comparing`.
"""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from labkit.workers.side import Refused

MARK = "@@the reply stands here@@"
IGNORED = -100
"""The label that cross_entropy leaves out."""
THINK = "<think>"
SMALL = 10**9
"""Parameters below which everything is cheap enough to be done a second time in fp32."""
Message = Mapping[str, str]


@dataclass(frozen=True)
class Sample:
    """One reply with what comes before it, as token ids."""

    prompt: list[int]
    reply: list[int]

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.reply)


def encode(tokenizer: Any, messages: Sequence[Message]) -> Sample:
    """The last message, which is the assistant's, as `Sample.reply`; everything before it as `Sample.prompt`.

    The two are written apart, so that the boundary lies between the same tokens as when the model is asked. Raises `Refused`
    where the template does not write a finished conversation as its prompt and a reply after it.
    """
    *before, last = messages
    prompt, ending = _frame(tokenizer, before)
    content = last["content"]
    if prompt.rstrip().endswith(THINK):  # the template opens the reasoning itself
        content = content.removeprefix(THINK).removeprefix("\n")
    return Sample(_ids(tokenizer, prompt), _ids(tokenizer, content + ending))


def _frame(tokenizer: Any, before: Sequence[Message]) -> tuple[str, str]:
    """(prompt, what ends a reply), from the template's own rendering of a reply that is a mark."""
    prompt = render(tokenizer, before)
    whole = render(tokenizer, [*before, {"role": "assistant", "content": MARK}], asking=False)
    start, marked, ending = whole.rpartition(MARK)
    if not marked or not (start.startswith(prompt) or prompt.startswith(start)):
        raise Refused(
            f"The chat template of {tokenizer.name_or_path} writes a finished conversation otherwise than it asks for a reply: "
            f"the prompt ends with {prompt[-40:]!r}, the same conversation with a reply begins {start[-40:]!r}.",
            "Give the folder a template that writes both the same way (chat_template.jinja or tokenizer_config.json).",
        )
    return prompt, ending.strip() or tokenizer.eos_token


def render(tokenizer: Any, messages: Sequence[Message], *, asking: bool = True) -> str:
    """The messages as the folder's chat template writes them; `asking` adds the beginning of a reply."""
    try:
        return str(tokenizer.apply_chat_template([dict(message) for message in messages], tokenize=False, add_generation_prompt=asking))
    except Exception as error:  # a template may raise anything
        raise Refused(
            f"The chat template of {tokenizer.name_or_path} does not take this conversation: {error}.",
            "Its roles must be those that the template knows: system, user and assistant in turn.",
        ) from error


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def load(folder: str, *, dtype: str = "", **options: Any) -> Any:
    """The model of a local folder on the GPU if there is one; `dtype` "" is the folder's own."""
    import torch
    from transformers import AutoModelForCausalLM

    gc.collect()  # a model that went before may hang in a cycle, and there is no room for two
    chosen = getattr(torch, dtype) if dtype else "auto"
    placed = {"device_map": {"": 0}} if device() != "cpu" else {}
    with memory("Loading the model"):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=chosen, local_files_only=True, **placed, **options)
    return model.eval()


def load_tokenizer(folder: str) -> Any:
    """The folder's tokenizer. Raises `Refused` if it has no chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not tokenizer.chat_template:
        raise Refused(f"{folder} has no chat template.", "A base model that was never taught to chat: use an instruct or reasoning model.")
    return tokenizer


def attach(model: Any, adapter: str) -> Any:
    """`model` with the PEFT adapter injected: what it adds is computed anew in every forward pass, in fp32."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, adapter).eval()


def parameters(folder: str) -> int:
    """How many parameters the model of a folder has, from its config, without its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return int(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, local_files_only=True)).num_parameters())


def device() -> str:
    """ "cuda:0" or "cpu"."""
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


def device_name() -> str:
    """ "cpu (2 threads)" or the GPU's name."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"cpu ({torch.get_num_threads()} threads)"


def pad(sequences: Sequence[Sequence[int]], filler: int, device: Any) -> dict[str, Any]:
    """Padded on the left, so that all end together: ids, mask and positions, each of shape (sequences, longest)."""
    import torch

    longest = max(map(len, sequences))
    ids = [[filler] * (longest - len(sequence)) + list(sequence) for sequence in sequences]
    mask = [[0] * (longest - len(sequence)) + [1] * len(sequence) for sequence in sequences]
    attention = torch.tensor(mask, device=device)
    positions = (attention.cumsum(-1) - 1).clamp(min=0)
    return {"input_ids": torch.tensor(ids, device=device), "attention_mask": attention, "position_ids": positions}


def filler(tokenizer: Any) -> int:
    """The id to pad with; what it is does not matter, for it is masked."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0)


def reply_logits(model: Any, samples: Sequence[Sample], filling: int) -> tuple[Any, Any]:
    """(logits, labels) over the replies of a batch: shapes (samples, longest reply, vocabulary) and (samples, longest reply).

    Only these logits are computed: over a prompt of a large vocabulary they would cost gigabytes. Labels are `IGNORED` where a
    shorter reply's prompt stands.
    """
    import torch

    device = next(model.parameters()).device
    longest = max(len(sample.reply) for sample in samples)
    inputs = pad([sample.prompt + sample.reply for sample in samples], filling, device)
    labels = [[IGNORED] * (longest - len(sample.reply)) + sample.reply for sample in samples]
    logits = model(**inputs, use_cache=False, logits_to_keep=longest + 1).logits[:, :-1]
    return logits, torch.tensor(labels, device=device)


class Generated(NamedTuple):
    """One reply: its text, its share of its batch's seconds, and whether max_new_tokens cut it off."""

    text: str
    seconds: float
    cut: bool


@dataclass
class Sampling:
    """How replies are drawn. `temperature` 0 takes the likeliest token; the rest is the folder's generation_config.json."""

    temperature: float
    max_new_tokens: int
    seed: int


def generate(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Sequence[Message]],
    sampling: Sampling,
    batch: int,
    on_token: Callable[[int, int], None],
) -> Iterator[Generated]:
    """For each conversation its reply. `on_token` gets replies done and tokens so far.

    Where the template writes <think> into the prompt, the text begins with it: else a reply cut off while it reasons would pass
    for an answer.
    """
    import torch

    torch.manual_seed(sampling.seed)
    config = _generation(model, tokenizer, sampling)
    ends = {config.pad_token_id, *_as_list(config.eos_token_id)}
    for first in range(0, len(conversations), batch):
        part = conversations[first : first + batch]
        prompts = [render(tokenizer, conversation) for conversation in part]
        inputs = pad([_ids(tokenizer, prompt) for prompt in prompts], filler(tokenizer), model.device)
        del inputs["position_ids"]  # generate keeps its own
        width, began = inputs["input_ids"].shape[1], time.monotonic()
        watch = _watch(on_token, first, width)
        with torch.inference_mode(), memory("Generating", "Give a smaller batch or max_new_tokens."):
            rows = model.generate(**inputs, generation_config=config, stopping_criteria=[watch])
        seconds = (time.monotonic() - began) / len(part)
        for prompt, row in zip(prompts, rows.tolist(), strict=True):
            opening = THINK if prompt.rstrip().endswith(THINK) else ""
            yield Generated(opening + tokenizer.decode(row[width:], skip_special_tokens=True), seconds, row[-1] not in ends)


def _as_list(ids: Any) -> list[Any]:
    return list(ids) if isinstance(ids, list | tuple) else [ids]


def _watch(on_token: Callable[[int, int], None], done: int, width: int) -> Any:
    """A stopping criterion that never stops and tells how many tokens stand behind prompts of `width` tokens."""
    import torch
    from transformers import StoppingCriteria

    class Watch(StoppingCriteria):  # type: ignore[misc]
        def __call__(self, input_ids: Any, scores: Any, **options: Any) -> Any:
            on_token(done, input_ids.shape[1] - width)
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    return Watch()


def _generation(model: Any, tokenizer: Any, sampling: Sampling) -> Any:
    """The folder's own settings, as an engine takes them too, with ours; top_k stays off unless the folder sets it."""
    config = copy.deepcopy(model.generation_config)
    config.max_new_tokens, config.max_length = sampling.max_new_tokens, None
    config.do_sample = sampling.temperature > 0
    config.temperature = sampling.temperature or None
    config.top_k = (config.top_k or 0) if config.do_sample else None
    config.top_p = config.top_p if config.do_sample else None
    config.pad_token_id = filler(tokenizer)
    return config


@contextmanager
def memory(doing: str, fix: str = "Stop what else holds the GPU: ./lab ps, ./lab down.") -> Iterator[None]:
    """A GPU that is full becomes a sentence."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise Refused(f"{doing} does not fit the GPU's memory: {str(error).splitlines()[0]}", fix, "MemoryHeld") from error
