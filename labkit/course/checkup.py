"""Doctor's rules: what each fact about the machine means for the course, and what to do about it.

One small function a subject; each gives lines of name, value, verdict and fix. `block` means that notebooks 01 to 03 cannot
run here as they are, `warn` that they run but something will hurt, `ok` that there is nothing to do.
Does not cover: looking (`host`), what hangs on the GPU (`gpu_rules`), the table itself (`diagnosis`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..common.amounts import GIB
from ..common.disk import Disk
from ..common.settings import AUTODL_DATA_DISK, CLONE, PORT_VARIABLES
from ..machine.host import Facts, facts
from ..machine.proxies import LOOPBACK, proxied
from . import gpu_rules
from .diagnosis import BLOCK, OK, WARN, Diagnosis, Line

SYSTEM_DISK_ROOM = 5e9
MODEL_ROOM = 20e9
"""A course model of 16.4 GB, and room to breathe."""
LEAST_MEMORY = 6 * GIB
"""vLLM on a CPU with the small course model takes 2.9 GiB; notebook, JupyterLab and install want the rest (facts of 2026-11)."""
SERVER_MEMORY = 3 * GIB
LEAST_SHARED_MEMORY = 60_000_000


def judge(facts: Facts) -> Diagnosis:
    """Doctor's table for `facts`."""
    return Diagnosis(tuple(line for rule in RULES for line in rule(facts)))


def _machine(facts: Facts) -> Iterator[Line]:
    yield Line("machine", f"{'AutoDL instance' if facts.autodl else 'not AutoDL'}, {facts.system}")
    yield Line("python", facts.python)
    yield from _kernel(facts)


def _kernel(facts: Facts) -> Iterator[Line]:
    found = facts.kernel
    again = "./lab ps (or any other ./lab word) registers it again; then reload JupyterLab's page."
    if found is None:
        yield Line("Jupyter kernel", "`labkit` is not registered for your JupyterLab", WARN, again)
    elif not found.alive:
        yield Line("Jupyter kernel", f"`labkit` leads to {found.python or 'nothing'}, which is not there", WARN, again)
    else:
        other = "" if found.python.startswith(f"{CLONE}/") else ", which is not of this clone"
        yield Line("Jupyter kernel", f"`labkit` starts {found.python}{other}")


def _memory(facts: Facts) -> Iterator[Line]:
    short = facts.memory < LEAST_MEMORY
    limit = " (the container's limit)" if facts.container_limit else ""
    fix = ""
    if not facts.visible and facts.memory < SERVER_MEMORY:
        fix = (
            "Enough for notebooks 01 and 02. A server on the CPU (03) wants 3 GiB of its own and would be killed: start the instance "
            "with its GPU for that, which also brings its memory."
        )
    elif short:
        fix = f"Close other notebooks and servers; the course wants {LEAST_MEMORY / GIB:.0f} GiB."
    elif facts.memory_free < LEAST_MEMORY / 2:
        fix = "Close other notebooks and servers: ./lab ps, ./lab down."
    yield Line("memory", f"{facts.memory / GIB:.1f} GiB{limit}, {facts.memory_free / GIB:.1f} GiB free", WARN if fix else OK, fix)
    yield from _shared_memory(facts)


def _shared_memory(facts: Facts) -> Iterator[Line]:
    if 0 < facts.shared_memory < LEAST_SHARED_MEMORY * 4 and len(facts.gpus) > 1:
        fix = "Several GPUs talk through /dev/shm: start the container with --ipc=host or --shm-size=8g."
        yield Line("shared memory", f"/dev/shm has {facts.shared_memory / 1e6:.0f} MB", WARN, fix)
    elif facts.shared_memory > 0 and facts.shared_memory_free < LEAST_SHARED_MEMORY:
        fix = "Files that dead processes left there (ls -l /dev/shm: nccl-*, torch_*, psm_*, sem.*) may be removed when no server runs."
        yield Line("shared memory", f"/dev/shm has {facts.shared_memory_free / 1e6:.0f} MB free", WARN, fix)


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
    if facts.home_open:
        fix = f"chmod go-w {home.path}: else they can put a key or a model of theirs in its place."
        yield Line("rights", "other users may write to the data home", WARN, fix)
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
    through = proxied(facts.environment)
    if through:
        fix = f"labkit tells its own servers; for other programs: export no_proxy={','.join(LOOPBACK)}"
        yield Line(
            "no_proxy", f"{through[0]} is set, and no_proxy does not name this machine: programs ask even it by the proxy", WARN, fix
        )


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


RULES: tuple[Callable[[Facts], Iterator[Line]], ...] = (_machine, *gpu_rules.RULES, _memory, _disks, _caches, _network, _ports, _tools)
"""In the order of the table."""


def doctor() -> Diagnosis:
    """A verdict and, where needed, a fix for every fact. `print(report.text())` in a terminal; shown as a table in a notebook."""
    return judge(facts())
