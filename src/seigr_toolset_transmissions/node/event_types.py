"""The events that a node emits: their names, and what their handlers are called with.

Each group of events is described once: by a literal type of its names, its keyword arguments (what
an occurrence holds) and the shape of its handlers. `NodeEvents` shows these to type checkers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, get_args

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ..stats import HealthStatus

__all__ = [
    "ARGUMENTS",
    "DataArguments",
    "DataEvent",
    "DataHandler",
    "ErrorArguments",
    "ErrorEvent",
    "ErrorHandler",
    "HealthArguments",
    "HealthEvent",
    "HealthHandler",
    "HubArguments",
    "HubEvent",
    "HubHandler",
    "NodeEvent",
    "PeerArguments",
    "PeerEvent",
    "PeerHandler",
    "SessionArguments",
    "SessionEvent",
    "SessionHandler",
]

SessionEvent = Literal["session_created", "session_suspended", "session_resumed", "session_closed"]


class SessionArguments(TypedDict):
    """The arguments of a session's event."""

    session_id: bytes


class SessionHandler(Protocol):
    """Handles an event of a session."""

    def __call__(self, *, session_id: bytes) -> Awaitable[Any]:
        """Handle it."""


PeerEvent = Literal["peer_connected", "peer_disconnected"]


class PeerArguments(TypedDict):
    """The arguments of a peer's event."""

    peer_node_id: bytes


class PeerHandler(Protocol):
    """Handles an event of a peer."""

    def __call__(self, *, peer_node_id: bytes) -> Awaitable[Any]:
        """Handle it."""


DataEvent = Literal["data_received"]


class DataArguments(TypedDict):
    """The arguments of ``data_received``."""

    session_id: bytes
    data: bytes


class DataHandler(Protocol):
    """Handles a message."""

    def __call__(self, *, session_id: bytes, data: bytes) -> Awaitable[Any]:
        """Handle it."""


ErrorEvent = Literal["error"]


class ErrorArguments(TypedDict):
    """The arguments of ``error``."""

    error_type: str
    details: dict[str, Any]


class ErrorHandler(Protocol):
    """Handles an error."""

    def __call__(self, *, error_type: str, details: dict[str, Any]) -> Awaitable[Any]:
        """Handle it."""


HealthEvent = Literal["health_changed"]


class HealthArguments(TypedDict):
    """The arguments of ``health_changed``."""

    peer_node_id: bytes
    status: HealthStatus


class HealthHandler(Protocol):
    """Handles a change of a peer's health."""

    def __call__(self, *, peer_node_id: bytes, status: HealthStatus) -> Awaitable[Any]:
        """Handle it."""


HubEvent = Literal["hub_joined", "hub_suspended", "hub_resumed", "hub_lost"]


class HubArguments(TypedDict):
    """The arguments of an event of another hub of the cluster."""

    hub: str


class HubHandler(Protocol):
    """Handles an event of another hub."""

    def __call__(self, *, hub: str) -> Awaitable[Any]:
        """Handle it."""


NodeEvent = Literal[SessionEvent, PeerEvent, DataEvent, ErrorEvent, HealthEvent, HubEvent]

ARGUMENTS: dict[str, tuple[str, ...]] = {
    name: tuple(arguments.__annotations__)
    for names, arguments in (
        (SessionEvent, SessionArguments),
        (PeerEvent, PeerArguments),
        (DataEvent, DataArguments),
        (ErrorEvent, ErrorArguments),
        (HealthEvent, HealthArguments),
        (HubEvent, HubArguments),
    )
    for name in get_args(names)
}
"""By event: the names of its arguments."""
