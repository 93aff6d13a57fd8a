"""Where a session is in its life, and whether it has a connection."""

from __future__ import annotations

from enum import Enum

__all__ = ["Link", "Phase"]


class Phase(Enum):
    """Where a session is in its life. A session only moves down this list."""

    OPEN = "open"
    CLOSING = "closing"
    """Closed by us: accepted messages still go out, then CLOSE; the peer's CLOSE_ACK ends it."""
    PEER_CLOSED = "peer closed"
    """Closed by the peer, whose messages are all here: its answer to our CLOSE_ACK ends it."""
    CLOSED = "closed"


# Enum's own is a Python function, and is called for each frame.
Phase.__hash__ = object.__hash__  # type: ignore[method-assign]


class Link(Enum):
    """Whether the session has a connection."""

    DOWN = "down"
    OPENING = "opening"
    """The dialer has sent its opening and waits for WELCOME."""
    UP = "up"
