"""Nothing, in place of torchaudio: labkit puts it into the CPU environment of LLaMA-Factory, and nowhere else.

LLaMA-Factory imports torchaudio in every process, also for models that never hear a sound (data/mm_plugin.py). PyPI has it only
for CUDA; beside a CPU torch its compiled code does not load: "libc10_cuda.so: cannot open shared object file". Text needs none
of it; whatever is asked of it says so. A torchaudio built for the CPU (https://download.pytorch.org/whl/cpu) would not need this.
"""

from typing import NoReturn


def __getattr__(name: str) -> NoReturn:
    raise AttributeError(f"torchaudio.{name}: this environment of labkit's is for text; its torchaudio is an empty stand-in")
