from .comparison import Measured as Measured
from .comparison import compare as compare
from .comparison import measure as measure
from .results import Sweep as Sweep
from .sweeps import sweep as sweep
