"""`python -m labkit`: what `./lab` hands over to."""

import sys

from .cli import main

sys.exit(main())
