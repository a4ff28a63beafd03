from .downloads import download as download
from .downloads import download_lines as download_lines
from .downloads import preview as preview
from .downloads import where as where
from .loopback import LoopbackHub as LoopbackHub
from .loopback import open_hub as open_hub
