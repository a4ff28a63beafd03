"""`python -m labkit`: what `./lab` hands over to."""

import sys
from pathlib import Path

from .cli import main
from .common.settings import CLONE
from .machine import kernel_spec

if Path(sys.prefix) == CLONE / ".venv" and (done := kernel_spec.restore(Path(sys.prefix))):
    print(done, file=sys.stderr)
sys.exit(main())
