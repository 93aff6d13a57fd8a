"""Figures that an application can read: of a node, of a session, and of a peer's traffic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["NodeStats", "SessionStats", "Traffic"]


@dataclass(frozen=True, slots=True)
class NodeStats:
    """What a node has done since it was created, and what it holds now."""

    sessions: int
    """Sessions now, including those without a connection or not yet used by their dialer."""
    suspended: int
    """How many of these have no connection."""
    peers: int
    half_open: int
    """Connections to this node that are in their handshake."""
    buffered_bytes: int
    """Received and not yet taken by the application, plus 64 for each message, and 1,536 for each
    peer that has gone while its messages wait. Messages that handlers took in the last few
    milliseconds may still be included."""
    promised_bytes: int
    """What peers may still send with the credit they have, counted in the same way."""
    unacknowledged_bytes: int
    """Accepted for sending and not yet acknowledged, counted in the same way; a broadcast message
    counts once for each recipient. These three together never exceed ``max_buffered_bytes``."""
    sessions_opened: int
    sessions_lost: int
    """Sessions that ended without an acknowledged close."""
    resumes: int
    handshakes_failed: int
    """Connections that did not become a session, in either direction."""
    handshakes_dropped: int
    """Connections to this node that were dropped because too many were in their handshake."""
    peers_denied: int
    """Connections of members that are banned or not allowed."""


@dataclass(frozen=True, slots=True)
class SessionStats:
    """Totals since the session began."""

    messages_sent: int
    """Messages accepted for sending."""
    messages_received: int
    """Messages received in full, whatever has become of them since."""
    bytes_sent: int
    """Total size of the messages in ``messages_sent``."""
    bytes_received: int
    """Total size of the messages in ``messages_received``."""
    unacknowledged_bytes: int
    """Accepted and not yet acknowledged: what the send window holds now, overhead included."""
    resumes: int
    """How often the session went on over a new connection."""


class Traffic(NamedTuple):
    """What a transport and an endpoint have exchanged."""

    bytes_sent: int
    """Bytes of messages accepted for sending."""
    bytes_received: int
    """Bytes of messages received."""
    last_activity: float | None
    """When a message was last sent or received, in seconds since the epoch; None if never."""
