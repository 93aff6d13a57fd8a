"""Warnings about messages that nothing will ever take."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..endpoints.transport_side import TransportEndpoints
    from ..events import EventEmitter

__all__ = ["UnreadWarnings"]

logger: logging.Logger = logging.getLogger(__name__)


class UnreadWarnings:
    """Writes each warning of one node at most once."""

    def __init__(self, events: EventEmitter) -> None:
        self._events = events
        self._warned_receiver = False
        self._warned_of_early = False

    def receiver_waits(self) -> None:
        """Warn if a receiver waits although a handler takes all messages."""
        if not self._warned_receiver and self._events.handled("data_received"):
            self._warned_receiver = True
            logger.warning(
                "receive_from or receive_any waits for a message, but a handler registered for "
                "data_received takes all messages: remove the handler, or have it call "
                "node.endpoints.deliver()"
            )

    def check(self, endpoints: TransportEndpoints) -> None:
        """Warn about messages that arrived before the first handler, which no handler gets."""
        if (
            not self._warned_of_early
            and endpoints.has_unasked
            and self._events.handled("data_received")
        ):
            self._warned_of_early = True
            logger.warning(
                "messages that arrived before the first handler for data_received was registered "
                "wait in the inboxes: take them with node.endpoints.receive_any(timeout=0), or "
                "register the handler before you start the node"
            )
