"""The course model's tokenizer, and its text as rows of tokens.

Covers: a byte-level BPE trained on the text, packing of conversations. Does not cover: the text (`corpus`), training (`pretrain`).
Runs in the Python of `pretrain`, beside tokenizers; the library is imported where it is used.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from ..evaluation import incidents
from ..models import course_model
from ..models.course_model import END, SPECIAL
from . import corpus
from .wordings import Message

TOKENIZER_SAMPLE = 20_000
"""Conversations that the tokenizer is trained on: always the same number, so that it does not depend on the other settings."""
SPLIT = r"\s*[\r\n]+|\p{Han}| ?[\p{Latin}_]+|\p{N}| ?[^\s\p{Han}\p{Latin}\p{N}_]+|\s+(?!\S)|\s+"
"""What BPE never merges across: each Chinese character and each digit is one token, so that wordings never seen look familiar."""

Row = tuple[list[int], list[float]]
"""Token ids, and how much each counts in the loss."""


def train_tokenizer(conversations: Sequence[list[Message]], size: int) -> Any:
    """A byte-level BPE of `size` tokens: the special ones first, then the 256 bytes, then the merges.

    It also sees the JSON of round two, so that its words are short; the model does not.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(SPECIAL), initial_alphabet=sorted(alphabet), show_progress=False)
    seen = [*conversations, *incidents.conversations("train", TOKENIZER_SAMPLE // 20)]
    texts = (f"{message['role']}\n{message['content']}" for conversation in seen for message in conversation)
    tokenizer.train_from_iterator(texts, trainer)
    return _mark_special(tokenizer)


def _mark_special(tokenizer: Any) -> Any:
    """Reasoning marks stay in decoded text, the others are left out: as it is in DeepSeek-R1-0528-Qwen3-8B."""
    from tokenizers import Tokenizer

    content = json.loads(tokenizer.to_str())
    for token in content["added_tokens"]:
        token["special"] = token["content"] not in (course_model.THINK, course_model.THOUGHT)
    return Tokenizer.from_str(json.dumps(content))


def pack(tokenizer: Any, conversations: Sequence[list[Message]], length: int, seed: int) -> list[Row]:
    """Rows of `length` + 1 (ids, weights): whole conversations one after the other, the rest of a row filled with the end token.

    A conversation sees those before it in its row. It learns to pass over them, and positions up to `length` are all met.
    """
    end = tokenizer.token_to_id(END)
    rows: list[Row] = []
    ids, weights = [end], [0.0]
    order = list(range(len(conversations)))
    random.Random(seed).shuffle(order)
    for tokens, counts in _encoded(tokenizer, [conversations[index] for index in order]):
        if len(ids) + len(tokens) > length + 1:
            missing = length + 1 - len(ids)
            rows.append((ids + [end] * missing, weights + [0.0] * missing))
            ids, weights = [end], [0.0]
        if len(tokens) <= length:
            ids, weights = ids + tokens, weights + counts
    missing = length + 1 - len(ids)
    return [*rows, (ids + [end] * missing, weights + [0.0] * missing)]


def _encoded(tokenizer: Any, conversations: Sequence[list[Message]], chunk: int = 5000) -> Iterator[Row]:
    """Ids and weights of each conversation, with an end token after it; encoded many at a time, which the library does in parallel."""
    end = tokenizer.token_to_id(END)
    for first in range(0, len(conversations), chunk):
        rendered = [corpus.render(messages) for messages in conversations[first : first + chunk]]
        encoded = iter(tokenizer.encode_batch([piece.text for pieces in rendered for piece in pieces], add_special_tokens=False))
        for pieces in rendered:
            parts = [(next(encoded).ids, piece.weight) for piece in pieces]
            yield [*chain(*(ids for ids, _ in parts)), end], [*chain(*([weight] * len(ids) for ids, weight in parts)), 0.0]
