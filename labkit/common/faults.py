"""A fault of labkit's own, kept in a report that can be handed on, instead of a traceback on the screen.

Covers: the report file, private and without the values of variables. Does not cover: errors with a cause and a fix (`errors`), what the
system refuses (`refusals`).
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path

from .errors import LabError
from .files import PRIVATE, write_text
from .settings import settings


def fault(error: BaseException) -> LabError:
    """`error` as one that says where its report lies; on the screen alone where no report could be written."""
    text = "\n".join(
        [
            time.strftime("%Y-%m-%d %H:%M:%S %z"),
            f"Python {platform.python_version()} on {platform.platform()}",
            f"command: {Path(sys.argv[0]).name} {sys.argv[1] if len(sys.argv) > 1 else ''}",
            "".join(traceback.format_exception(error)),
        ]
    )
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in ("", tempfile.gettempdir()):
        with suppress(OSError, LabError):
            path = write_text((Path(folder) if folder else settings().logs / "reports") / name, text, mode=PRIVATE)
            return LabError(
                f"labkit itself went wrong ({type(error).__name__}).", f"{path} says where: please send it with the command that you gave."
            )
    print(text, file=sys.stderr)
    return LabError(f"labkit itself went wrong ({type(error).__name__}).", "The lines above say where: please send them.")
