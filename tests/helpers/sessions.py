"""Sending until a window is full, and receiving what was sent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from seigr_toolset_transmissions.errors import (
    STTWindowFullError,
)

if TYPE_CHECKING:
    from seigr_toolset_transmissions import Session


__all__ = ["KILO", "SMALL", "fill", "numbered", "receive"]


SMALL: dict[str, Any] = {
    "max_message_bytes": 1024,
    "send_window_bytes": 4096,
    "receive_window_bytes": 4096,
    "inbox_messages": 1,
}
"""Three messages of a thousand bytes fill a window; nothing waits in the inbox."""
KILO = b"k" * 1000


def numbered(count: int) -> list[bytes]:
    return [b"%d" % k for k in range(count)]


async def receive(node: Any, count: int) -> list[bytes]:
    return [(await node.endpoints.receive_any(timeout=9))[0] for _ in range(count)]


async def fill(session: Session) -> int:
    """Send until the peer's window and our own are full; return how many messages that took."""
    count = 0
    while True:
        try:
            session.send_nowait(KILO)
            count += 1
        except STTWindowFullError:
            # The peer may still grant credit for what it has put into its inbox.
            before = session.stats.unacknowledged_bytes
            await asyncio.sleep(0.05)
            if session.stats.unacknowledged_bytes == before:
                return count
