"""Figures that an application can read: of a node, of a session, and of a peer's traffic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["NodeStats", "SessionStats", "Traffic"]


@dataclass(frozen=True, slots=True)
class NodeStats:
    """What a node has done since it was made, and what it holds now."""

    sessions: int
    """Sessions now, with those that have no connection and those not used by their dialer yet."""
    suspended: int
    """Of these, how many have no connection."""
    peers: int
    half_open: int
    """Connections to this node that are in their handshake."""
    buffered_bytes: int
    """Received and not yet taken by the application, 64 for each message included, and 1,536 for
    each peer that has gone while messages of it wait. What handlers have taken in the last few
    milliseconds may be among it."""
    promised_bytes: int
    """What the peers may send at any time with the credit that they have, counted alike."""
    unacknowledged_bytes: int
    """Accepted for sending and not acknowledged yet, counted alike; a message that was broadcast
    counts for each recipient. These three together never exceed ``max_buffered_bytes``."""
    sessions_opened: int
    sessions_lost: int
    """Sessions that ended without an acknowledged close."""
    resumes: int
    handshakes_failed: int
    """Connections that did not become a session, in either direction."""
    handshakes_dropped: int
    """Connections to this node that were dropped because there were too many in a handshake."""
    peers_denied: int
    """Connections of members that are not allowed or banned."""


@dataclass(frozen=True, slots=True)
class SessionStats:
    """Totals since the session began."""

    messages_sent: int
    """Messages accepted for sending."""
    messages_received: int
    """Messages of which every byte has come, whatever has become of them since."""
    bytes_sent: int
    """What the messages in ``messages_sent`` have together."""
    bytes_received: int
    """What those in ``messages_received`` have together."""
    unacknowledged_bytes: int
    """Accepted and not yet acknowledged: what the send window holds now, overhead included."""
    resumes: int
    """How often the session went on over a new connection."""


class Traffic(NamedTuple):
    """What went to and fro between a transport and an endpoint."""

    bytes_sent: int
    """Bytes of messages accepted for sending."""
    bytes_received: int
    """Bytes of messages that have come."""
    last_activity: float | None
    """When a message last came or went, in seconds since the epoch; None if none ever did."""
