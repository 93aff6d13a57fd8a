"""Wakes calls that wait until a peer has a session, or can have none."""

from __future__ import annotations

import asyncio

__all__ = ["Arrivals"]


class Arrivals:
    """The calls that wait until the route to a peer changes."""

    def __init__(self) -> None:
        self.waiting: dict[bytes, dict[asyncio.Future[None], None]] = {}
        """Their futures by peer, oldest first. Others may only test whether a peer is in it."""

    def note(self, peer_node_id: bytes) -> None:
        """Wake all that wait for this peer, in order: something has changed."""
        for waiter in self.waiting.get(peer_node_id, ()):
            if not waiter.done():
                waiter.set_result(None)

    def note_all(self) -> None:
        """Wake all."""
        for peer_node_id in self.waiting:
            self.note(peer_node_id)

    async def change(self, peer_node_id: bytes) -> None:
        """Wait until something changes for this peer."""
        waiter = asyncio.get_running_loop().create_future()
        waiters = self.waiting.setdefault(peer_node_id, {})
        waiters[waiter] = None
        try:
            await waiter
        finally:
            del waiters[waiter]
            if not waiters and self.waiting.get(peer_node_id) is waiters:
                del self.waiting[peer_node_id]
