"""Looking at a node from outside, without changing what it does. Nothing runs until you ask for it.

All that is shown comes from `STTNode.snapshot`, and none of it is a payload, a seed or a key.
"""

from .console import Console, serve_console
from .metrics import NodeCollector
from .monitor import Monitor
from .monitor_socket import serve_monitor
from .remote import RemoteMonitor
from .view import News, Rates, Sample, SeenEvent

__all__ = [
    "Console",
    "Monitor",
    "News",
    "NodeCollector",
    "Rates",
    "RemoteMonitor",
    "Sample",
    "SeenEvent",
    "serve_console",
    "serve_monitor",
]
