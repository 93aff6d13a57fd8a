"""Encrypted, lossless messages between named peers that share one secret seed.

`STTNode` is a program's place in its group; `EndpointManager` names, describes, sends to and
receives from its peers; `EventEmitter` tells what happens. All exceptions derive from `STTError`
and live in `seigr_toolset_transmissions.errors`.
"""

from __future__ import annotations

from .config import NodeConfig
from .endpoints import EndpointManager, SendOutcome
from .errors import STTError
from .events import EventEmitter, Occurrence
from .identity import generate_seed
from .live_session import Session, SessionState, SessionStats
from .node import NodeStats, STTNode

__all__ = [
    "EndpointManager",
    "EventEmitter",
    "NodeConfig",
    "NodeStats",
    "Occurrence",
    "STTError",
    "STTNode",
    "SendOutcome",
    "Session",
    "SessionState",
    "SessionStats",
    "__version__",
    "generate_seed",
]

__version__ = "0.2.0a0"
