from ..models.adapter import Adapter as Adapter
from .checks import check as check
from .comparing import compare as compare
from .merging import merge as merge
from .ulps import difference as difference
