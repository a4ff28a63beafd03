"""What lies in a model folder: profiles, config, weights, manifests, adapters, versions; and folders made here.

The names that notebooks use, loaded when first touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common import lazy

EXPORTS = {
    "Adapter": "adapter",
    "current": "versions",
    "fill": "random_weights",
    "history": "versions",
    "loss_figure": "course_model",
    "make": "course_model",
    "Profile": "profiles",
    "profile": "profiles",
    "profiles": "profiles",
    "promote": "versions",
    "random_adapter": "random_weights",
    "rollback": "versions",
    "verify": "manifests",
    "Weights": "headers",
}
"""Name -> module that holds it, or is it."""

if TYPE_CHECKING:
    from . import profiles as profiles
    from .adapter import Adapter as Adapter
    from .course_model import loss_figure as loss_figure
    from .course_model import make as make
    from .headers import Weights as Weights
    from .manifests import verify as verify
    from .profiles import Profile as Profile
    from .profiles import profile as profile
    from .random_weights import fill as fill
    from .random_weights import random_adapter as random_adapter
    from .versions import current as current
    from .versions import history as history
    from .versions import promote as promote
    from .versions import rollback as rollback

__getattr__, __dir__ = lazy.names(__name__, EXPORTS)
