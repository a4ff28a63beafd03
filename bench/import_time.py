#!/usr/bin/env python3
"""How long `import labkit` takes over an empty interpreter, and whether it brings torch in.

.venv/bin/python bench/import_time.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time


def seconds(code: str) -> float:
    """Median wall time of a fresh interpreter that runs `code`, of 9 after one warm-up."""
    times = []
    for _ in range(10):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


LOOK = "import labkit, sys; labkit.serve; sys.exit('torch' in sys.modules)"
empty, imported, used = seconds("pass"), seconds("import labkit"), seconds("import labkit; labkit.serve")
torch = subprocess.run([sys.executable, "-c", LOOK]).returncode
print(f"empty {empty:.3f} s; import labkit {imported:.3f} s: {imported - empty:+.3f} s, ratio {imported / empty:.2f}")
print(f"with labkit.serve loaded {used:.3f} s")
print(f"torch imported: {bool(torch)}")
