from .environments import Runtime as Runtime
from .environments import install as install
from .environments import present as present
from .environments import python as python
from .environments import runtime_list as runtime_list
