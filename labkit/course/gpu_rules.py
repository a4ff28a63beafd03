"""Doctor's rules on the GPU, its driver, the engines' environments and what they are compiled with.

Does not cover: looking (`machine.gpu`, `machine.host`), choosing a list (`runtimes.pinned`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..common.amounts import GIB
from ..common.errors import LabError
from ..machine.gpu import FORCED, KINDS, VISIBLE, Device
from ..machine.host import Facts
from ..runtimes.environments import named_versions
from ..runtimes.pinned import PinnedList, choose, major, tool
from .diagnosis import BLOCK, OK, WARN, Line

CUDA_OF_DRIVER = ((580, "13.0"), (575, "12.9"), (570, "12.8"), (560, "12.6"), (550, "12.4"), (535, "12.2"), (525, "12.0"), (450, "11"))
"""Driver branch -> newest CUDA it was released with (NVIDIA, CUDA toolkit release notes)."""
FORMATS = (((8, 0), "bfloat16"), ((8, 9), "fp8"))
"""Compute capability -> what the hardware computes from it on (`engines.demands`, `models.profiles`)."""


def on_gpu(facts: Facts) -> bool:
    """Whether servers of this process take a GPU."""
    return bool(facts.visible) and not _on_cpu(facts)


def _on_cpu(facts: Facts) -> bool:
    """Whether the user said so."""
    return facts.environment.get("LABKIT_DEVICE") == "cpu"


def _gpu(facts: Facts) -> Iterator[Line]:
    failure = facts.gpu_failure
    if failure:
        seen = f"{failure.cause} NVML says: {failure.said}."
        yield Line("GPU", seen, WARN if facts.visible or _on_cpu(facts) else BLOCK, failure.fix)
    elif not facts.gpus:
        yield Line("GPU", "none found (notebooks 01 and 02 need none; 03 then runs a small model on the CPU)")
    for gpu in facts.visible:
        yield _device(gpu)
    yield from _hidden(facts)
    formats = [name for least, name in FORMATS if any(gpu.capability and gpu.capability < least for gpu in facts.visible)]
    if formats:
        half = "; course models run in float16 (dtype half)" if "bfloat16" in formats else ""
        yield Line("number formats", f"not in the hardware of this GPU: {', '.join(formats)}{half}")
    yield from _forced(facts)


def _forced(facts: Facts) -> Iterator[Line]:
    said = facts.environment.get(FORCED)
    if said and said not in KINDS:
        yield Line(FORCED, f"{said}: no start takes that word", BLOCK, f"export {FORCED}=cpu or gpu, or: unset {FORCED}")
    elif said == "gpu" and not facts.visible:
        yield Line(FORCED, "gpu, and this process sees none: engines fail when they start", WARN, f"unset {FORCED}")
    elif said:
        yield Line(FORCED, f"{said}: servers use it whatever is here")


def _device(gpu: Device) -> Line:
    name = f"GPU {gpu.index}"
    what = f"{gpu.name}, {'MIG slice, ' if gpu.parent else ''}"
    capability = f", compute capability {gpu.capability_text}"
    if gpu.memory_call == "":
        fix = "Profile auto cannot choose by it: export LABKIT_PROFILE=<name>. Nor can a stop tell whether the memory came back."
        return Line(name, f"{what}its memory cannot be read{capability}", WARN, fix)
    shared = " shared with the machine" if gpu.memory_call == "system" else ""
    used = f", {gpu.used_bytes / GIB:.1f} GiB of it in use" if gpu.used_bytes > GIB else ""
    held = bool(used) and not shared
    fix = "Somebody holds GPU memory: ./lab ps, ./lab down, or close the other notebook." if held else ""
    return Line(
        name,
        f"{what}{gpu.total_bytes / GIB:.{0 if gpu.total_bytes >= 20 * GIB else 1}f} GiB{shared}{used}{capability}",
        WARN if held else OK,
        fix,
    )


def _hidden(facts: Facts) -> Iterator[Line]:
    if facts.gpu_problem and not facts.gpu_failure:
        yield Line(VISIBLE, facts.gpu_problem[0], WARN if _on_cpu(facts) else BLOCK, facts.gpu_problem[1])
        return
    hidden = {gpu.index for gpu in facts.gpus} - {gpu.index for gpu in facts.visible}
    if hidden:
        beside = facts.visible and VISIBLE not in facts.environment
        by = "not seen by CUDA beside a MIG slice" if beside else f"hidden by {VISIBLE}"
        which = f"GPU {', '.join(map(str, sorted(hidden)))} {by}"
        fix = "" if facts.visible else f"Servers and profile auto see no GPU: unset {VISIBLE}, or name one that is there."
        yield Line("hidden GPUs", which, WARN if fix else OK, fix)


def _engines(facts: Facts) -> Iterator[Line]:
    """Which pinned list vLLM gets, and why: by the driver and the GPU; or the environment that the user named."""
    driver = facts.driver
    if driver:
        newest = next((cuda for least, cuda in CUDA_OF_DRIVER if major(driver) >= least), "older than 11")
        yield Line("driver", f"{driver}, made for CUDA up to {newest}")
    own = named_versions(facts.environment)
    yield from (_own(variable, *found) for variable, found in own.items())
    if facts.gpu_problem and not facts.environment.get("LABKIT_DEVICE"):
        yield Line("vLLM list", "not known before the GPU can be used", WARN, "See the line on the GPU.")
        return
    for name in ("vllm", "sglang"):
        if f"LABKIT_RUNTIME_{name.upper()}" not in own:
            yield from _list(facts, name)


def _own(variable: str, python: object, version: str) -> Line:
    engine = variable.removeprefix("LABKIT_RUNTIME_").lower()
    if version == "?":
        return Line(
            variable,
            "names no engine, and nobody reads it",
            WARN,
            f"unset {variable}; the names: LABKIT_RUNTIME_VLLM, _SGLANG, _OPEN_WEBUI",
        )
    if not version:
        fix = f"Set it to the Python inside an environment with {engine}, or: unset {variable}"
        return Line(variable, f"{python}: cannot be run, or has no {engine}", BLOCK if engine == "vllm" else WARN, fix)
    return Line(variable, f"{python}: {engine} {version} is installed there; used in place of a list of ours (not imported for this table)")


def _list(facts: Facts, engine: str) -> Iterator[Line]:
    title, first = tool(engine).title, engine == "vllm"
    known = [gpu.capability for gpu in facts.visible if gpu.capability] if on_gpu(facts) else []
    try:
        row = choose(tool(engine), facts.driver if on_gpu(facts) else "", min(known, default=None))
    except LabError as error:
        yield Line(f"{title} list", error.cause, BLOCK if first else WARN, error.fix)
        return
    if not first:
        return
    made = (facts.settings.runtimes / row.list / "labkit-runtime.json").exists()
    state = "environment made" if made else f"environment not made yet, {row.bytes / 1e9:.1f} GB"
    yield Line(f"{title} list", f"{row.list}: {row.why} ({state})")
    yield from _cpu_needs(facts, row)


def _cpu_needs(facts: Facts, row: PinnedList) -> Iterator[Line]:
    processor, blocked = facts.processor, not row.cuda and not facts.processor.avx2
    sets = "AVX-512" if processor.avx512 else "AVX2" if processor.avx2 else "no AVX2"
    yield Line(
        "processor",
        f"{processor.name}, {processor.cores} cores, {sets}",
        BLOCK if blocked else OK,
        "vLLM on a CPU needs AVX2 (Intel since 2013, AMD since 2017): use another machine." if blocked else "",
    )
    for library, package in row.libraries.items():
        there = facts.tools.get(package, True)
        fix = "" if there else f"apt-get install -y {package}, or labkit.install_tools(['{package}'])"
        yield Line(package, f"{library} {'found' if there else 'missing; vLLM on a CPU needs it'}", OK if there else BLOCK, fix)


def _building(facts: Facts) -> Iterator[Line]:
    """What Triton needs at the first start on a GPU, and what WSL wants."""
    found = facts.building
    if not on_gpu(facts) or found is None:
        return
    if not found.cuda:
        fix = "In a container: start it with NVIDIA_DRIVER_CAPABILITIES=compute,utility. Else install the driver's libcuda1."
        yield Line("CUDA library", "libcuda.so.1 does not load here, though the driver answers: engines would find no GPU", WARN, fix)
    if not found.compiler:
        fix = "apt-get install -y gcc, or labkit.install_tools(['gcc'])"
        yield Line("C compiler", "none found (gcc, clang, CC): engines compile kernels at their first start", BLOCK, fix)
    if not found.headers:
        version = ".".join(found.python.split()[1].split(".")[:2])
        fix = f"apt-get install -y python{version}-dev; or a Python with headers (conda): export LABKIT_PYTHON=<it>, remove .venv, ./lab"
        yield Line("Python.h", f"missing for {found.python}: engines compile against it at their first start", BLOCK, fix)
    if facts.wsl:
        yield Line(
            "WSL", f"kernel {facts.wsl}; vLLM is told to use pinned memory, which it leaves off here (VLLM_WSL2_ENABLE_PIN_MEMORY=1)"
        )


RULES: tuple[Callable[[Facts], Iterator[Line]], ...] = (_gpu, _engines, _building)
