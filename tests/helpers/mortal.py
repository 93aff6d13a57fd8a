"""A node's ways to the world, which can end as they do when its process is killed."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from helpers.fault_network import Cable, FaultNetwork, Kind
from seigr_toolset_transmissions.transports.bus import Arrived, Bus, Unsubscribe

if TYPE_CHECKING:
    from collections.abc import Callable

    from seigr_toolset_transmissions.transports.base import Listener, Network, Receiver, Transport

__all__ = ["MortalBus", "MortalNetwork"]


class MortalNetwork(FaultNetwork):
    """The network of one process, until `die`."""

    def __init__(self, inner: Network) -> None:
        super().__init__(inner)
        self._listeners: list[Listener] = []
        self._is_dead = False

    async def dial(self, receiver: Receiver, host: str, port: int) -> Transport:
        if self._is_dead:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "the process is dead")
        return await super().dial(receiver, host, port)

    async def listen(self, accept: Callable[[], Receiver], host: str, port: int) -> Listener:
        def accept_cable() -> Cable:
            cable = Cable(accept(), None)
            self.cables.append(cable)
            return cable

        listener = await super().listen(accept_cable, host, port)
        self._listeners.append(listener)
        return listener

    async def die(self) -> None:
        """Reset all connections, and accept and make no more."""
        self._is_dead = True
        for listener in self._listeners:
            await listener.close()
        for cable in self.cables:
            if cable.broken is None:
                cable.cut(Kind.RST)


class MortalBus(Bus):
    """The connection of one process to a bus, until `die`."""

    def __init__(self, inner: Bus) -> None:
        super().__init__()
        self._inner = inner
        self._is_dead = False
        self._ends: list[Unsubscribe] = []
        inner.watch(self._set_up)
        self._set_up(inner.is_up)

    def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        if not self._is_dead:
            self._inner.publish(subject, data, reply)

    async def subscribe(self, prefix: str, arrived: Arrived) -> Unsubscribe:
        unsubscribe = await self._inner.subscribe(prefix, arrived)
        self._ends.append(unsubscribe)
        return unsubscribe

    async def die(self) -> None:
        """Send nothing more, and receive nothing: the bus itself tells nobody."""
        self._is_dead = True
        for unsubscribe in self._ends:
            await unsubscribe()
