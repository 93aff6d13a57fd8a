"""A bus within one process, for tests and for trying nodes that meet at a broker.

It loses nothing and swaps nothing, and it is deterministic: each step is one callback of the event
loop, and nothing depends on the clock.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from .bus import Bus

if TYPE_CHECKING:
    from .bus import Arrived, Unsubscribe

__all__ = ["MemoryBus"]


class _Subscription(NamedTuple):
    arrived: Arrived
    loop: asyncio.AbstractEventLoop


class MemoryBus(Bus):
    """A bus of its own: only those that have this object meet on it.

    They must run on the same event loop.
    """

    def __init__(self) -> None:
        super().__init__()
        self._subscriptions: dict[str, list[_Subscription]] = {}
        self._outages = 0
        self._set_up(True)

    def take_down(self) -> None:
        """Begin an outage: what is under way is lost, and so is what is published until its end."""
        self._outages += 1
        self._set_up(False)

    def bring_up(self) -> None:
        """End the outage; all subscriptions are still there."""
        self._set_up(True)

    def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        """Send ``data`` to every subscriber of ``subject``, as `Bus.publish` says."""
        if self._is_up:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._deliver, subject, data, reply, self._outages, loop)

    async def subscribe(self, prefix: str, arrived: Arrived) -> Unsubscribe:
        """Call ``arrived`` for each message to a subject below ``prefix``, as `Bus` says."""
        subscription = _Subscription(arrived, asyncio.get_running_loop())
        here = self._subscriptions.setdefault(prefix, [])
        here[:] = [other for other in here if not other.loop.is_closed()]
        here.append(subscription)

        async def unsubscribe() -> None:
            if subscription in here:
                here.remove(subscription)
            if not here and self._subscriptions.get(prefix) is here:
                del self._subscriptions[prefix]

        return unsubscribe

    def _deliver(
        self,
        subject: str,
        data: bytes,
        reply: str,
        outages: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        if outages != self._outages:
            return
        prefix, _, name = subject.rpartition(".")
        here = [sub for sub in self._subscriptions.get(prefix, ()) if sub.loop is loop]
        for subscription in here:
            subscription.arrived(name, data, reply)
        if not here and reply:
            loop.call_soon(self._deliver, reply, b"", "", outages, loop)
