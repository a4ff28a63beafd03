from . import finetune as finetune
from . import llamafactory as llamafactory
from . import verl as verl
