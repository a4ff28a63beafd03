from . import gpu as gpu
from . import shell as shell
from .gpu import Device as Device
from .gpu import devices as devices
