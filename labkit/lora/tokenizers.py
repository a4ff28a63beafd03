"""What a folder says about its tokenizer and its chat template. Used by `checks`, and by `merging` to copy them.

Covers: tokenizer.json, tokenizer_config.json, special_tokens_map.json and the places of a template. Does not cover: tokenizing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..models.headers import read_json

FILES = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json"),
)


@dataclass(frozen=True)
class Tokenizer:
    """The tokenizer of `folder`; every part is empty where the folder does not say it. Files are read when first asked for.

    Raises `LabError` that names the file for one that is no JSON object.
    """

    folder: Path

    @property
    def files(self) -> dict[str, Path]:
        """Those of FILES that are there, by name."""
        return {name: self.folder / name for name in FILES if (self.folder / name).is_file()}

    @cached_property
    def config(self) -> Mapping[str, Any]:
        return json_if_there(self.folder / "tokenizer_config.json")

    @cached_property
    def template(self) -> str:
        """The chat template: in a file of its own, or in tokenizer_config.json."""
        file = self.folder / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8", errors="replace").strip()
        own = self.config.get("chat_template") or json_if_there(self.folder / "chat_template.json").get("chat_template") or ""
        return own.strip() if isinstance(own, str) else json.dumps(own)

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """Token -> id, the added ones too."""
        table = json_if_there(self.folder / "tokenizer.json")
        vocabulary = (table.get("model") or {}).get("vocab") or {}
        rows = vocabulary.items() if isinstance(vocabulary, dict) else ((row[0], number) for number, row in enumerate(vocabulary))
        older = {
            str(token): number for token, number in json_if_there(self.folder / "added_tokens.json").items() if isinstance(number, int)
        }
        return {**dict(rows), **older, **{token["content"]: token["id"] for token in table.get("added_tokens") or ()}}

    @property
    def special(self) -> Mapping[str, str]:
        """bos, eos, pad and the like -> token."""
        rows = {**json_if_there(self.folder / "special_tokens_map.json"), **self.config}
        tokens = {name: rows.get(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        return {name: token["content"] if isinstance(token, dict) else str(token) for name, token in tokens.items() if token}


def json_if_there(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is no file. Raises `LabError` that names one which is none."""
    return read_json(path) if path.exists() else {}
