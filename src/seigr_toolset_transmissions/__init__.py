"""Encrypted, lossless messages between named peers that share one secret seed.

`STTNode` is a program's place in its group. `EndpointManager` keeps its peers, sends to them and
receives from them. `EventEmitter` reports what happens, `HealthMonitor` how well peers answer. All
exceptions derive from `STTError` and live in `seigr_toolset_transmissions.errors`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import NodeConfig
    from .endpoints import EndpointManager, SendOutcome
    from .errors import STTError
    from .events import EventEmitter, Occurrence
    from .node import STTNode
    from .node.health import HealthMonitor
    from .node.node_emitter import NodeEvents
    from .node.stopping import StopReport
    from .seeds import generate_seed, load_seed, save_seed
    from .sessions.public import Session, SessionState
    from .stats import (
        EndpointSnapshot,
        Health,
        HealthStatus,
        HubInfo,
        NodeSnapshot,
        NodeStats,
        SessionStats,
    )

__all__ = [
    "EndpointManager",
    "EndpointSnapshot",
    "EventEmitter",
    "Health",
    "HealthMonitor",
    "HealthStatus",
    "HubInfo",
    "NodeConfig",
    "NodeEvents",
    "NodeSnapshot",
    "NodeStats",
    "Occurrence",
    "STTError",
    "STTNode",
    "SendOutcome",
    "Session",
    "SessionState",
    "SessionStats",
    "StopReport",
    "__version__",
    "generate_seed",
    "load_seed",
    "save_seed",
]

__version__ = "0.2.0a0"

_MODULES = ("cluster", "config", "discovery", "endpoints", "errors", "events", "seeds", "seeing")

_HOMES = {
    "EndpointManager": "endpoints",
    "EndpointSnapshot": "stats",
    "EventEmitter": "events",
    "Health": "stats",
    "HealthMonitor": "node.health",
    "HealthStatus": "stats",
    "HubInfo": "stats",
    "NodeConfig": "config",
    "NodeEvents": "node.node_emitter",
    "NodeSnapshot": "stats",
    "NodeStats": "stats",
    "Occurrence": "events",
    "STTError": "errors",
    "STTNode": "node",
    "SendOutcome": "endpoints",
    "Session": "sessions",
    "SessionState": "sessions",
    "SessionStats": "stats",
    "StopReport": "node.stopping",
    "generate_seed": "seeds",
    "load_seed": "seeds",
    "save_seed": "seeds",
}


if not TYPE_CHECKING:  # a checker sees the imports above, and nothing that is not there

    def __getattr__(name: str) -> Any:
        """Import a public name, or a public module, when it is first used.

        Importing everything at once takes time, even for a program that needs little of it, and an
        `stt` that is interrupted meanwhile would end with a traceback.
        """
        home = _HOMES.get(name)
        if home is None:
            if name in _MODULES:
                return import_module(f".{name}", __name__)
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{home}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})
