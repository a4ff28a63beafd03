from .server import Server as Server
from .server import attach as attach
from .server import running as running
from .server import shutdown as shutdown
from .servers import serve as serve
