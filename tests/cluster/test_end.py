"""A hub ends in time, whatever its bus does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

import pytest

from helpers.nodes import in_virtual_time, memory_nodes
from seigr_toolset_transmissions.cluster import Cluster
from seigr_toolset_transmissions.transports.memory_bus import MemoryBus

if TYPE_CHECKING:
    from types import TracebackType


class StuckBus(MemoryBus):
    """A bus whose opening, or closing, never ends."""

    def __init__(self, *, opens: bool) -> None:
        super().__init__()
        self.opens = opens
        self.entered = self.left = False

    async def __aenter__(self) -> Self:
        if not self.opens:
            await asyncio.Event().wait()
        self.entered = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.left = True


@pytest.mark.parametrize("opens", [False, True])
@in_virtual_time
async def test_a_hub_ends_whose_bus_hangs(opens: bool) -> None:
    bus = StuckBus(opens=opens)
    async with memory_nodes() as nodes:
        hub = await nodes.listen("bob", cluster=Cluster(bus, name="hub"))
        await asyncio.sleep(5)
        assert bus.entered == opens
        async with asyncio.timeout(30 if opens else 10):
            await hub.stop(drain=0)
        assert bus.left == opens
