"""Doctor's rules: what each fact about the machine means for the course, and what to do about it.

One small function a subject; each gives lines of name, value, verdict and fix. `block` means that notebooks 01 to 03 cannot
run here as they are, `warn` that they run but something will hurt, `ok` that there is nothing to do.
Does not cover: looking (`host`).
"""

from __future__ import annotations

import html
import shutil
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..common.disk import Disk
from ..common.errors import LabError
from ..common.settings import AUTODL_DATA_DISK, PORT_VARIABLES
from ..machine.host import Facts, facts
from ..runtimes.pinned import PinnedList, choose, major, tool

OK, WARN, BLOCK = "ok", "warn", "block"
GIB = 2**30
SYSTEM_DISK_ROOM = 5e9
MODEL_ROOM = 20e9
"""A course model of 16.4 GB, and room to breathe."""
LEAST_MEMORY = 6 * GIB
"""vLLM on a CPU with the small course model takes 2.9 GiB; notebook, JupyterLab and install want the rest (facts of 2026-11)."""
LEAST_SHARED_MEMORY = 60_000_000
COLOURS = {OK: "#2e9e5b", WARN: "#b7791f", BLOCK: "#c9372c"}
CUDA_OF_DRIVER = ((580, "13.0"), (575, "12.9"), (570, "12.8"), (560, "12.6"), (550, "12.4"), (535, "12.2"), (525, "12.0"), (450, "11"))
"""Driver branch -> newest CUDA it was released with (NVIDIA, CUDA toolkit release notes)."""


@dataclass(frozen=True)
class Line:
    """One row: what was looked at, what was seen, the verdict, and what to do ("" when nothing)."""

    name: str
    value: str
    verdict: str = OK
    fix: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Doctor's table."""

    lines: tuple[Line, ...]

    @property
    def exit_code(self) -> int:
        """1 when something blocks the course, else 0."""
        return int(any(line.verdict == BLOCK for line in self.lines))

    @property
    def verdict(self) -> str:
        """The worst verdict of all lines."""
        return max((line.verdict for line in self.lines), key=[OK, WARN, BLOCK].index)

    def text(self) -> str:
        """The table for a terminal, fixes below their lines, folded to its width."""
        width = max(shutil.get_terminal_size((120, 24)).columns, 60)
        names = max(len(line.name) for line in self.lines)
        indent = " " * (names + 9)
        parts = []
        for line in self.lines:
            head = f"{line.verdict:<5}  {line.name:<{names}}  "
            parts.append(textwrap.fill(line.value, width, initial_indent=head, subsequent_indent=indent, break_on_hyphens=False))
            if line.fix:
                parts.append(
                    textwrap.fill(f"-> {line.fix}", width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
                )
        return "\n".join([*parts, "", self._summary()])

    def _summary(self) -> str:
        count = {verdict: sum(line.verdict == verdict for line in self.lines) for verdict in (BLOCK, WARN)}
        if count[BLOCK]:
            return f"{count[BLOCK]} of {len(self.lines)} lines block the course · 有 {count[BLOCK]} 项必须先解决"
        return f"Nothing blocks the course; {count[WARN]} to look at · 可以开始，{count[WARN]} 项建议看一下"

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><td style="color:{COLOURS[line.verdict]};font-weight:600;text-align:left">{line.verdict}</td>'
            f'<td style="text-align:left;white-space:nowrap">{html.escape(line.name)}</td>'
            f'<td style="text-align:left">{html.escape(line.value)}</td><td style="text-align:left">{html.escape(line.fix)}</td></tr>'
            for line in self.lines
        )
        heads = "".join(f'<th style="text-align:left">{word}</th>' for word in ("verdict", "what · 项目", "seen · 现状", "to do · 处理"))
        return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table><p>{html.escape(self._summary())}</p>"

    def __repr__(self) -> str:
        return self.text()


def judge(facts: Facts) -> Diagnosis:
    """Doctor's table for `facts`."""
    return Diagnosis(tuple(line for rule in RULES for line in rule(facts)))


def _machine(facts: Facts) -> Iterator[Line]:
    yield Line("machine", f"{'AutoDL instance' if facts.autodl else 'not AutoDL'}, {facts.system}")
    yield Line("python", facts.python)


def _gpu(facts: Facts) -> Iterator[Line]:
    if not facts.gpus:
        yield Line("GPU", "none found (notebooks 01 and 02 need none; 03 then runs a small model on the CPU)")
    for gpu in facts.visible:
        used = f", {gpu.used_bytes / GIB:.1f} GiB of it in use" if gpu.used_bytes > GIB else ""
        yield Line(
            f"GPU {gpu.index}",
            f"{gpu.name}, {gpu.total_bytes / GIB:.0f} GiB{used}",
            WARN if used else OK,
            "Somebody holds GPU memory: ./lab ps, ./lab down, or close the other notebook." if used else "",
        )
    hidden = {gpu.index for gpu in facts.gpus} - {gpu.index for gpu in facts.visible}
    if hidden:
        which = f"GPU {', '.join(map(str, sorted(hidden)))} hidden by CUDA_VISIBLE_DEVICES"
        fix = "" if facts.visible else "Servers and profile auto see no GPU: unset CUDA_VISIBLE_DEVICES, or name one that is there."
        yield Line("hidden GPUs", which, WARN if fix else OK, fix)


def _engine_list(facts: Facts) -> Iterator[Line]:
    """Which pinned list vLLM gets, and why: by the driver."""
    driver = facts.driver
    if driver:
        newest = next((cuda for least, cuda in CUDA_OF_DRIVER if major(driver) >= least), "older than 11")
        yield Line("driver", f"{driver}, made for CUDA up to {newest}")
    try:
        row = choose(tool("vllm"), driver)
    except LabError as error:
        yield Line("vLLM list", error.cause, BLOCK, error.fix)
        return
    made = (facts.settings.runtimes / row.list / "labkit-runtime.json").exists()
    state = "environment made" if made else f"environment not made yet, {row.bytes / 1e9:.1f} GB"
    yield Line("vLLM list", f"{row.list}: {row.why} ({state})")
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


def _memory(facts: Facts) -> Iterator[Line]:
    short = facts.memory < LEAST_MEMORY
    limit = " (the container's limit)" if facts.container_limit else ""
    yield Line(
        "memory",
        f"{facts.memory / GIB:.1f} GiB{limit}, {facts.memory_free / GIB:.1f} GiB free",
        WARN if short or facts.memory_free < LEAST_MEMORY / 2 else OK,
        f"Close other notebooks and servers; the course wants {LEAST_MEMORY / GIB:.0f} GiB." if short else "",
    )
    if 0 < facts.shared_memory < LEAST_SHARED_MEMORY * 4 and len(facts.gpus) > 1:
        fix = "Several GPUs talk through /dev/shm: start the container with --ipc=host or --shm-size=8g."
        yield Line("shared memory", f"/dev/shm has {facts.shared_memory / 1e6:.0f} MB", WARN, fix)


def _disks(facts: Facts) -> Iterator[Line]:
    system, home = facts.disks["system disk"], facts.disks["data home"]
    yield _system_disk(system)
    data = facts.disks.get("data disk")
    if data:
        yield Line("data disk", f"{data.path}: {_room(data)}")
    misplaced = facts.autodl and AUTODL_DATA_DISK.is_dir() and home.device == system.device
    yield Line(
        "data home",
        f"{home.path}: {_room(home)}",
        WARN if misplaced else OK,
        f"It is on the small system disk: unset LABKIT_HOME, or set it below {AUTODL_DATA_DISK}." if misplaced else "",
    )
    models = facts.disks["models"]
    small = models.free < MODEL_ROOM and bool(facts.gpus or facts.autodl)
    yield Line(
        "models folder",
        f"{models.path}: {_room(models)}",
        WARN if small else OK,
        "The 8B model is 16.4 GB: enlarge the data disk in the console, or delete what you no longer need." if small else "",
    )


def _system_disk(disk: Disk) -> Line:
    fix = "Move environments, models and caches to the data disk; see what is large: du -xh -d2 / | sort -h | tail"
    if disk.free < SYSTEM_DISK_ROOM:
        return Line("system disk", f"{disk.path}: {_room(disk)}", BLOCK if disk.free < 5e8 else WARN, fix)
    if disk.total <= 34e9:
        return Line("system disk", f"{disk.path}: {_room(disk)}; small, so nothing large belongs here", OK)
    return Line("system disk", f"{disk.path}: {_room(disk)}")


def _room(disk: Disk) -> str:
    return f"{disk.free / 1e9:.0f} GB free of {disk.total / 1e9:.0f} GB"


def _caches(facts: Facts) -> Iterator[Line]:
    system = facts.disks["system disk"]
    unset = [name for name in facts.caches if not facts.environment.get(name)]
    wrong = [name for name, path in facts.caches.items() if AUTODL_DATA_DISK not in path.parents] if facts.autodl else []
    folder = f"{facts.settings.caches} ({len(facts.caches)} variables)"
    if wrong and system.total <= 34e9:
        yield Line(
            "caches", f"on the system disk: {', '.join(wrong)}", WARN, "Unset them, or point them to the data disk; then run notebook 01."
        )
    elif unset:
        yield Line(
            "caches",
            f"{folder}; labkit's own servers use it, other terminals do not know it yet",
            WARN if facts.autodl else OK,
            "Notebook 01 writes them to ~/.bashrc for every terminal (labkit.persist())." if facts.autodl else "",
        )
    else:
        yield Line("caches", f"{folder}, set in this process")


def _network(facts: Facts) -> Iterator[Line]:
    yield Line("packages from", ", ".join(facts.package_places[:2]) + (" ..." if len(facts.package_places) > 2 else ""))
    if facts.conda_channels:
        yield Line("conda channels", facts.conda_channels[0] + (" ..." if len(facts.conda_channels) > 1 else ""))
    yield Line("Hugging Face at", facts.hub_endpoint or "https://huggingface.co (HF_ENDPOINT is not set)")
    if facts.turbo and facts.proxy:
        fix = "It helps Hugging Face and GitHub, and slows ModelScope and package mirrors: unset http_proxy https_proxy for those."
        yield Line("acceleration", "on in this process (academic acceleration)", WARN, fix)
    elif facts.turbo:
        yield Line("acceleration", "off; for Hugging Face or GitHub, in a terminal: source /etc/network_turbo")
    elif facts.proxy:
        yield Line("proxy", "set (http_proxy or https_proxy)")


def _ports(facts: Facts) -> Iterator[Line]:
    for name, found in facts.listeners.items():
        port, title = facts.settings.ports[name], name.replace("_", "-")
        if found is None:
            yield Line(f"port {port}", f"free (for {title})")
        elif str(facts.settings.runtimes) in found.command:
            yield Line(f"port {port}", f"your own server, pid {found.pid} (./lab ps)")
        else:
            fix = f"Stop it if it is yours, or use another port: export {PORT_VARIABLES[name]}=<port>"
            yield Line(f"port {port}", f"taken by {found}", WARN, fix)


def _tools(facts: Facts) -> Iterator[Line]:
    missing = [name for name in ("git", "git-lfs", "curl") if not facts.tools[name]]
    fix = f"labkit.install_tools({missing}) in notebook 01, or: apt-get install -y {' '.join(missing)}"
    there = [name for name in ("git", "git-lfs", "curl", "tmux") if facts.tools[name]]
    seen = ", ".join(there) or "none" if not missing else f"missing: {', '.join(missing)}"
    yield Line("tools", seen, WARN if missing else OK, fix if missing else "")


RULES: tuple[Callable[[Facts], Iterator[Line]], ...] = (_machine, _gpu, _engine_list, _memory, _disks, _caches, _network, _ports, _tools)
"""In the order of the table."""


def doctor() -> Diagnosis:
    """A verdict and, where needed, a fix for every fact. `print(report.text())` in a terminal; shown as a table in a notebook."""
    pass

    return judge(facts())
