"""That the text of today is the text that the course model's weights came from: its tokenizer, made again, is the one beside them."""

import json
import subprocess
from pathlib import Path

import pytest

from labkit.models import course_model

pytestmark = pytest.mark.integration

MAKE = """
import sys
from labkit import corpus, pretrain
made = list(corpus.conversations(pretrain.TOKENIZER_SAMPLE, 0))
pretrain.train_tokenizer(made, pretrain.SHAPE.vocab).save(sys.argv[1])
"""


def test_the_tokenizer_is_made_again_from_the_text(engine_pythons: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / course_model.TOKENIZER
    subprocess.run([str(engine_pythons["vllm"]), "-c", MAKE, str(file)], check=True, cwd=Path(course_model.__file__).parent.parent)
    assert json.loads(file.read_text()) == json.loads((course_model.TRAINED / course_model.TOKENIZER).read_text())
