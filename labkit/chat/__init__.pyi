from .dialogue import Conversation as Conversation
from .dialogue import client as client
from .dialogue import curl as curl
from .dialogue import stream as stream
from .reasoning import reasoning_and_answer as reasoning_and_answer
from .served import list_adapters as list_adapters
from .served import resolve_model_name as resolve_model_name
