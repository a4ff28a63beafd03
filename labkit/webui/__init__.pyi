from .page import WebUI as WebUI
from .page import attach as attach
from .page import reset_password as reset_password
from .page import serve as serve
