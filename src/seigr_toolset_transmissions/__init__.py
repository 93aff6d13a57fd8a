"""Encrypted, lossless messages between named peers that share one secret seed.

`STTNode` is a program's place in its group; `EndpointManager` names, describes, sends to and
receives from its peers; `EventEmitter` tells what happens. All exceptions derive from `STTError`
and live in `seigr_toolset_transmissions.errors`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import NodeConfig
    from .endpoints import EndpointManager, SendOutcome
    from .errors import STTError
    from .events import EventEmitter, Occurrence
    from .figures import NodeStats, SessionStats
    from .identity import generate_seed
    from .live_session import Session, SessionState
    from .node import STTNode
    from .stopping import StopReport

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
    "StopReport",
    "__version__",
    "generate_seed",
]

__version__ = "0.2.0a0"

_HOMES = {
    "EndpointManager": "endpoints",
    "EventEmitter": "events",
    "NodeConfig": "config",
    "NodeStats": "figures",
    "Occurrence": "events",
    "STTError": "errors",
    "STTNode": "node",
    "SendOutcome": "endpoints",
    "Session": "live_session",
    "SessionState": "live_session",
    "SessionStats": "figures",
    "StopReport": "stopping",
    "generate_seed": "identity",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: a public name from its module, or a module.

    Not at once, lest an `stt` that is interrupted while all is imported ends with a traceback: the
    command's entry point, which would prevent that, lies below this package.
    """
    home = _HOMES.get(name)
    if home is not None:
        value = getattr(import_module(f".{home}", __name__), name)
        globals()[name] = value
        return value
    module = f"{__name__}.{name}"
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
