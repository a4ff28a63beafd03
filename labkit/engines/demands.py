"""What an engine asks of a machine, as data: flags that need a certain GPU, and what Windows' Linux needs.

Read in the sources of vLLM 0.19.1 and 0.26.0 and of SGLang 0.5.10 and 0.5.17. Not here: what happens by itself (SGLang, and vLLM
with dtype "auto", take float16 where a card has no bfloat16), and what memory a model needs. Used by `serving.preflight`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Demand:
    """A flag with one of `values` needs compute capability `least`, unless a flag of `unless` is given too."""

    engine: str
    flag: str
    values: tuple[str, ...]
    least: tuple[int, int]
    why: str
    fix: str
    unless: tuple[str, ...] = ()


DEMANDS = (
    Demand("vllm", "--dtype", ("bfloat16",), (8, 0), "vLLM refuses bfloat16 before 8.0 (RTX 30, A100)", 'dtype="half", or leave it out.'),
    Demand(
        "vllm",
        "--kv-cache-dtype",
        ("fp8", "fp8_e4m3"),
        (8, 9),
        "vLLM's own kernels for it exist from 8.9 on (RTX 40, L20, H20): without another back end the start ends with "
        "'type fp8e4nv not supported in this architecture'",
        "Leave kv_cache_dtype out and lower max_model_len. With an attention_backend of your own choice (FLASHINFER) labkit lets it "
        "through; that was not tried.",
        unless=("--attention-backend",),
    ),
)

ON_WSL = {"vllm": {"VLLM_WSL2_ENABLE_PIN_MEMORY": "1"}}
"""Engine -> variables on Windows' Linux. vLLM leaves pinned memory off there, and since 0.24 does not start without it (vllm#47387)."""
