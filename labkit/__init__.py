"""labkit: the helper package behind the course notebooks on serving large language models.

The names that the notebooks use, loaded when first touched, so that `import labkit` costs next to nothing and never
brings in an engine. What each does is said where it lives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import lazy

__version__ = "0.1.0"

EXPORTS = {
    "attach": "engines",
    "client": "chat",
    "compare": "comparison",
    "Conversation": "chat",
    "curl": "chat",
    "doctor": "host",
    "download": "downloads",
    "download_lines": "downloads",
    "facts": "host",
    "flag_table": "engines.pairs",
    "forget": "shell",
    "install": "runtimes",
    "install_tools": "host",
    "LabError": "errors",
    "measure": "comparison",
    "open_hub": "hubs",
    "persist": "shell",
    "preview": "downloads",
    "profile": "profiles",
    "read_metrics": "metrics",
    "reasoning_and_answer": "chat",
    "running": "engines",
    "serve": "engines",
    "shutdown": "engines",
    "stream": "chat",
    "sweep": "bench",
    "tunnel": "tunnels",
    "verify": "manifests",
    "watch": "live",
    "where": "downloads",
}
"""Name -> module that holds it."""

if TYPE_CHECKING:
    from .bench import sweep as sweep
    from .chat import Conversation as Conversation
    from .chat import client as client
    from .chat import curl as curl
    from .chat import reasoning_and_answer as reasoning_and_answer
    from .chat import stream as stream
    from .comparison import compare as compare
    from .comparison import measure as measure
    from .downloads import download as download
    from .downloads import download_lines as download_lines
    from .downloads import preview as preview
    from .downloads import where as where
    from .engines import attach as attach
    from .engines import running as running
    from .engines import serve as serve
    from .engines import shutdown as shutdown
    from .engines.pairs import flag_table as flag_table
    from .errors import LabError as LabError
    from .host import doctor as doctor
    from .host import facts as facts
    from .host import install_tools as install_tools
    from .hubs import open_hub as open_hub
    from .live import watch as watch
    from .manifests import verify as verify
    from .metrics import read_metrics as read_metrics
    from .profiles import profile as profile
    from .runtimes import install as install
    from .shell import forget as forget
    from .shell import persist as persist
    from .tunnels import tunnel as tunnel

__getattr__, __dir__ = lazy.names(__name__, EXPORTS)
