"""The tests of the project by tier, as `./lab test` runs them; the tests themselves are in tests/.

unit: a few minutes, no engine. integration: minutes, real engines on this machine. notebooks: nbval over the course, the same files
that students open. These three are "all", one after the other, because two engines at once do not fit a small machine.
faults, when asked for by name: every download fault with every client, many minutes, because real clients ask again on their own; the
unit tier has each fault once and each client with some, and says how many cases it leaves to this one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from ..common.errors import LabError
from ..machine.packages import install_tools

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ["git-lfs", "chromium", "ssh", *([] if Path("/run/systemd/system").exists() else ["sshd"])]
"""What tests need beside Python packages: installed by apt where that may be done, else those tests say why they skip.

sshd only where installing it starts no service, as in a container: the test runs one of its own on a loopback port.
"""
CELL_SECONDS = 1800


def run_tests(tier: str, rest: list[str]) -> int:
    """Run `tier` ("all", "unit", "faults", "integration" or "notebooks"), with further words for pytest; returns the worst exit code."""
    _install_tools()
    tiers = ["unit", "integration", "notebooks"] if tier == "all" else [tier]
    worst, times = 0, []
    for name in tiers:
        print(f"--- {name} tests", flush=True)
        started = time.monotonic()
        code = subprocess.run([sys.executable, "-m", "pytest", *_arguments(name), *rest], cwd=ROOT, env=_environment()).returncode
        times.append(f"{name}: {'passed' if code == 0 else f'FAILED (pytest exit code {code})'} in {time.monotonic() - started:.0f} s")
        worst = max(worst, code)
    print("\n".join(times))
    return worst


def _arguments(tier: str) -> list[str]:
    if tier == "unit":
        return ["-q", "tests", "--ignore=tests/integration", "-m", "not faults"]
    if tier == "faults":
        return ["-v", "--durations=25", "tests", "--ignore=tests/integration", "-m", "faults"]
    if tier == "integration":
        return ["-v", "--durations=0", "tests/integration"]
    notebooks = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    return ["-v", "--nbval-lax", "-x", f"--nbval-cell-timeout={CELL_SECONDS}", *notebooks]


def _environment() -> dict[str, str]:
    """Servers end with the kernel or process that started them: a failed test must not leave an engine behind."""
    return {**os.environ, "LABKIT_OWNER": "kernel"}


def _install_tools() -> None:
    for name in TOOLS:
        try:
            install_tools([name])
        except LabError as error:
            print(f"{error}\nThe tests that need {name} are skipped.", file=sys.stderr)
