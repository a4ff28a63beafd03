"""Failures that vLLM and SGLang word alike, because the words are argparse's, torch's, huggingface_hub's or the system's.

Each engine puts `SHARED` behind those that only it has, and before those that a missing GPU or anything else may cause as well.
The functions are for failures that both have and name each in its own words.
"""

from __future__ import annotations

from ..common.logs import Explanation

SHARED = (
    Explanation(
        r"error: argument (\S+): invalid choice: '?([^' ]+)'? \(choose from (.+)\)",
        "{0} cannot be {1}.",
        "Choose one of: {2}.",
    ),
    Explanation(r"error: argument (\S+): (.+)", "{0}: {1}.", "Give the flag a value of the right kind."),
    Explanation(
        r"driver on your system is too old \(found version (\d+)\)|CUDA driver version is insufficient|forward compatibility was attempted",
        "The NVIDIA driver is too old for this build of torch (CUDA version the driver offers: {0}).",
        "Use the CUDA 12 list (./lab doctor says which fits) or rent a machine with driver 580 or later.",
    ),
    Explanation(
        r"Repo id must [^\n]*: '([^'\n]+)'\.",
        "There is no model at {0}: it is no folder with a config.json and no id of a hub.",
        "Check the path; labkit.download (notebook 02) puts a course model in its place.",
    ),
    Explanation(
        r"Cannot find an appropriate cached snapshot folder|outgoing traffic has been disabled|couldn't connect to '?https?://",
        "The model id is not in the cache, and the hub cannot be reached (or HF_HUB_OFFLINE=1 forbids it).",
        "Download it first (notebook 02), or serve it from ModelScope: use_modelscope=True.",
    ),
    Explanation(
        r"(?:SafetensorError|Error while deserializing header): ?(\w*)",
        "A weight file is damaged or cut short ({0}).",
        "labkit.verify(profile) names it; labkit.download fetches it again.",
    ),
    Explanation(
        r"Cannot find the config file for (\w+)",
        "quantization={0} was asked for, but this checkpoint is not quantised that way.",
        "Leave the flag out: a quantised checkpoint says so itself in config.json (quantization_config).",
    ),
    Explanation(r"No space left on device", "A disk is full.", "df -h; on AutoDL move caches to the data disk (notebook 01)."),
    Explanation(
        r"[Aa]ddress already in use",
        "The port was taken while the engine was starting.",
        "./lab ps and `ss -ltnp` show by whom; choose another port.",
    ),
)


def unknown_flag(title: str, help_command: str) -> Explanation:
    """A flag that argparse does not know."""
    return Explanation(
        r"unrecognized arguments: (.+)",
        f"{title} does not know the flag: {{0}}",
        f"Check the spelling; `<python> -m {help_command}` lists every flag.",
    )


def too_long(flag: str, derived: str) -> Explanation:
    """More context than the model was made for. `flag` is the keyword, `derived` a pattern for what stands before the second number."""
    return Explanation(
        rf"{flag} \((\d+)\) is greater than the derived {flag} \({derived}(\d+)",
        "The context asked for ({0} tokens) is longer than the one the model was made for ({1}).",
        f"Lower {flag} to the model's own length; longer needs RoPE scaling in the model's config.json.",
    )


def code_of_the_model(title: str) -> Explanation:
    """A model that brings Python of its own."""
    return Explanation(
        r"trust_remote_code=True",
        f"The model brings code of its own, which {title} runs only if told to.",
        "Read that code; then trust_remote_code=True. It runs with all your rights.",
    )
