"""Makes the folders of the course models that no hub has: the small one that talks, and the 8B shape without weights.

The small model is a Qwen3 of 4 million parameters that `pretrain` trained from scratch; its folder travels with the package
(labkit/models/weights/tiny) and is copied. It answers questions about serving in a sentence, looks at incidents, and knows nothing
else: docs/course_model.md. The 8B shape has the real model's config, and the small one's tokenizer and template.

Covers: config, tokenizer, chat template, generation settings. Does not cover: training (`training.pretrain`, `training.corpus`).
Used by all notebooks through profiles whose weights are "trained" or "dummy".
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common import figures
from ..common.errors import ProfileError
from ..common.files import draft, save
from .profiles import Profile, Shape

if TYPE_CHECKING:
    from ..common.figures import Picture

END, START, STOP, THINK, THOUGHT = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"
SPECIAL = (END, START, STOP, THINK, THOUGHT)
"""The first ids of the vocabulary, in this order."""
TRAINED = Path(__file__).with_name("weights") / "tiny"
TOKENIZER = "tokenizer.json"

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)


def make(profile: Profile, folder: Path) -> Path:
    """Write the model folder of `profile` to `folder` and return it; one that is already whole is left alone.

    Written beside and renamed, so that a half-made folder is never found under the name. A small model from an older labkit is
    replaced. Raises `ProfileError` for a profile that comes from a hub.
    """
    if not profile.local:
        raise ProfileError(f"{profile.name} is a real model; it is downloaded, not made.", "Use labkit.download (notebook 02).")
    if (folder / "config.json").exists() and not _outdated(profile, folder):
        return folder
    with draft(folder, "making") as made:
        if profile.weights == "dummy":
            write_texts(made, profile.shape, profile.context)
            shutil.copyfile(TRAINED / TOKENIZER, made / TOKENIZER)
            origin = f"Made by labkit/models/course_model.py. {profile.licence}."
            (made / "README.md").write_text(f"# {profile.served_name}\n\n{profile.title}.\n{origin}\n")
        else:
            shutil.copytree(TRAINED, made, copy_function=shutil.copyfile, dirs_exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    return folder


def _outdated(profile: Profile, folder: Path) -> bool:
    """Whether a folder of the trained model is of another shape or of another training."""
    return profile.weights == "trained" and any(
        not (folder / name).is_file() or (folder / name).read_bytes() != (TRAINED / name).read_bytes()
        for name in ("config.json", "loss.json")
    )


def config(shape: Shape, context: int) -> dict[str, Any]:
    """The config.json of a Qwen3 of `shape`; past 32,768 tokens with YaRN, as DeepSeek-R1-0528-Qwen3-8B has it."""
    long = {"rope_type": "yarn", "factor": context / 32768, "original_max_position_embeddings": 32768}
    return {
        "architectures": [shape.architecture],
        "model_type": "qwen3",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "max_position_embeddings": context,
        "rope_theta": 1000000,
        "rope_scaling": long if context > 32768 else None,
        "rms_norm_eps": 1e-06,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "bfloat16",
        "bos_token_id": SPECIAL.index(END),
        "eos_token_id": SPECIAL.index(STOP),
    }


def loss_figure() -> Picture:
    """How the loss of the small model fell while it was trained, in nats per token, from the loss.json beside its weights."""
    record = json.loads((TRAINED / "loss.json").read_text(encoding="utf-8"))
    caption = (
        f"{record['parameters']:,} parameters, {record['tokens'] / 1e6:.0f} million tokens, {record['seconds']:.0f} s on one "
        f"{record['device']}; loss {record['losses'][-1][1]:.3f}, {record['held_out']:.3f} on conversations held out"
    )
    with figures.drawing:
        figure = figures.new_figure(7.5, 3.4)
        axes = figure.subplots()
        axes.plot(*zip(*record["losses"], strict=True), color=figures.COLOURS[0], linewidth=2)
        axes.axhline(record["held_out"], color=figures.COLOURS[1], linewidth=1, linestyle="--", label="held out, at the end")
        figures.sparse_log(axes)
        axes.set_xlabel("step")
        axes.set_title("loss: nats per token", loc="left", fontsize=10)
        axes.legend(fontsize=8, frameon=False)
        figure.supxlabel(caption, fontsize=8, color=figures.QUIET, x=0.01, ha="left")
        return figures.finish(figure, caption)


def write_texts(folder: Path, shape: Shape, context: int) -> None:
    """Everything small but the tokenizer itself: config, generation settings, tokenizer settings with the chat template."""
    end, stop = SPECIAL.index(END), SPECIAL.index(STOP)
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": STOP,
        "pad_token": END,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    save(folder / "config.json", config(shape, context))
    save(folder / "generation_config.json", {"eos_token_id": [stop, end], "pad_token_id": end})
    save(folder / "tokenizer_config.json", tokenizer)
