from .live import watch as watch
from .metrics import read_metrics as read_metrics
from .recording import Recording as Recording
from .sampler import Sampler as Sampler
