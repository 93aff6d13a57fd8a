"""A network and a host of it, and connections there."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from helpers.recorder import Recorder, turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from seigr_toolset_transmissions.transports.base import (
        Listener,
        Network,
    )

__all__ = ["BURST", "MIB", "Place", "connected"]

MIB = 1024 * 1024

BURST = 16 * MIB
"""More than the system's own buffers hold."""


@dataclass
class Place:
    """A network, and a host of it."""

    network: Network
    host: str

    async def listen(self, accept: Callable[[], Recorder], port: int = 0) -> Listener:
        return await self.network.listen(accept, self.host, port)

    async def dial(self, receiver: Recorder, listener: Listener) -> None:
        await self.network.dial(receiver, *listener.address)


@asynccontextmanager
async def connected(place: Place, client: Recorder, server: Recorder) -> AsyncIterator[None]:
    """Connect two recorders; then close what is left, and check that both kept the contract."""
    listener = await place.listen(lambda: server)
    try:
        await place.dial(client, listener)
        await server.until(lambda: bool(server.calls))
        yield
        for side in (client, server):
            side.transport.abort()
        await client.until_lost()
        await server.until_lost()
        await turns(3)
        client.check()
        server.check()
    finally:
        await listener.close()
