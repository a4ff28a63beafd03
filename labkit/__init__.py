"""labkit: the helper package behind the course notebooks on serving large language models.

The names that the notebooks use, loaded when first touched, so that `import labkit` costs next to nothing and never
brings in an engine. What each does is said where it lives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .common import lazy

__version__ = "0.1.0"

EXPORTS = {
    "attach": "serving.server",
    "client": "chat.dialogue",
    "compare": "benchmark.comparison",
    "Conversation": "chat.dialogue",
    "curl": "chat.dialogue",
    "doctor": "course.checkup",
    "download": "hub.downloads",
    "download_lines": "hub.downloads",
    "facts": "machine.host",
    "flag_table": "engines.pairs",
    "forget": "machine.shell",
    "install": "runtimes.environments",
    "install_tools": "machine.packages",
    "LabError": "common.errors",
    "measure": "benchmark.comparison",
    "open_hub": "hub.endpoints",
    "persist": "machine.shell",
    "preview": "hub.downloads",
    "profile": "models.profiles",
    "read_metrics": "telemetry.metrics",
    "reasoning_and_answer": "chat.reasoning",
    "running": "serving.server",
    "serve": "serving.servers",
    "settings": "common.settings",
    "shutdown": "serving.server",
    "stream": "chat.dialogue",
    "sweep": "benchmark.sweeps",
    "tunnel": "machine.tunnels",
    "verify": "models.manifests",
    "watch": "telemetry.live",
    "where": "hub.downloads",
}
"""Name -> module that holds it."""

if TYPE_CHECKING:
    from .benchmark.comparison import compare as compare
    from .benchmark.comparison import measure as measure
    from .benchmark.sweeps import sweep as sweep
    from .chat.dialogue import Conversation as Conversation
    from .chat.dialogue import client as client
    from .chat.dialogue import curl as curl
    from .chat.dialogue import stream as stream
    from .chat.reasoning import reasoning_and_answer as reasoning_and_answer
    from .common.errors import LabError as LabError
    from .common.settings import settings as settings
    from .course.checkup import doctor as doctor
    from .engines.pairs import flag_table as flag_table
    from .hub.downloads import download as download
    from .hub.downloads import download_lines as download_lines
    from .hub.downloads import preview as preview
    from .hub.downloads import where as where
    from .hub.endpoints import open_hub as open_hub
    from .machine.host import facts as facts
    from .machine.packages import install_tools as install_tools
    from .machine.shell import forget as forget
    from .machine.shell import persist as persist
    from .machine.tunnels import tunnel as tunnel
    from .models.manifests import verify as verify
    from .models.profiles import profile as profile
    from .runtimes.environments import install as install
    from .serving.server import attach as attach
    from .serving.server import running as running
    from .serving.server import shutdown as shutdown
    from .serving.servers import serve as serve
    from .telemetry.live import watch as watch
    from .telemetry.metrics import read_metrics as read_metrics

__getattr__, __dir__ = lazy.names(__name__, EXPORTS)
