"""That the text of today is the text that the course model's weights came from: its tokenizer, made again, is the one beside them."""

import json
import subprocess
from pathlib import Path

import pytest

from labkit.models import course_model

pytestmark = pytest.mark.integration

MAKE = """
import sys
from labkit.models.profiles import profile
from labkit.training import corpus, tokens
made = list(corpus.conversations(tokens.TOKENIZER_SAMPLE, 0))
tokens.train_tokenizer(made, profile("tiny").shape.vocab).save(sys.argv[1])
"""


def test_the_tokenizer_is_made_again_from_the_text(engine_pythons: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / course_model.TOKENIZER
    subprocess.run([str(engine_pythons["vllm"]), "-c", MAKE, str(file)], check=True, cwd=Path(__file__).parents[2])
    assert json.loads(file.read_text()) == json.loads((course_model.TRAINED / course_model.TOKENIZER).read_text())
