"""A hub ends in time, whatever its bus does, and reports all that is lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

import pytest

from helpers.cluster import Broken, cluster, hub_of, receive
from helpers.nodes import address_of, cancel_all_others, in_virtual_time, live, memory_nodes
from seigr_toolset_transmissions import NodeConfig
from seigr_toolset_transmissions.cluster import Cluster
from seigr_toolset_transmissions.transports.memory_bus import MemoryBus

if TYPE_CHECKING:
    from types import TracebackType

    from helpers.cluster import Hubs
    from seigr_toolset_transmissions import STTNode


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


@in_virtual_time
async def test_a_hub_ends_at_once_whose_bus_is_down_while_it_joins() -> None:
    bus = MemoryBus()
    bus.take_down()
    async with memory_nodes() as nodes:
        hub = await nodes.listen("bob", cluster=Cluster(bus, name="hub"))
        await asyncio.sleep(1)
        async with asyncio.timeout(1):
            await hub.stop(drain=0)


async def waiting_for_alice(it: Hubs) -> STTNode:
    """Let hub-0 send ten messages to Alice, who never acknowledges them; return her node."""
    alice = await it.peer("alice", it.hubs[1], config=NodeConfig(send_window_messages=5))
    Broken(alice, it.hubs[1])
    for number in range(10):
        await it.hubs[0].endpoints.send_to_endpoint(alice.node_id, b"%d" % number)
    return alice


@pytest.mark.parametrize("turns", range(0, 12, 2))
@in_virtual_time
async def test_a_stop_reports_all_that_is_lost_though_all_tasks_are_cancelled(turns: int) -> None:
    async with cluster(grace=20) as it:
        alice, hub = await waiting_for_alice(it), it.hubs[0]
        stop = asyncio.create_task(hub.stop(drain=1))
        await asyncio.sleep(1)
        for _ in range(turns):
            await asyncio.sleep(0)
        if stop.done():
            report = stop.result()
        else:
            cancel_all_others()
            await asyncio.wait((stop,))
            report = await hub.stop(drain=0)
        (error,) = report
        assert error.peer_node_id == alice.node_id
        assert {*error.unsent, *error.unknown} == {b"%d" % number for number in range(10)}


@in_virtual_time
async def test_a_stop_waits_for_what_an_older_session_of_an_endpoint_was_given() -> None:
    async with cluster() as it:
        alice, hub = await it.peer("alice", it.hubs[1]), it.hubs[0]
        broken = Broken(alice, it.hubs[1])
        await hub.endpoints.send_to_endpoint(alice.node_id, b"over the older session")
        await asyncio.sleep(1)
        stop = asyncio.create_task(hub.stop(drain=60))
        await asyncio.sleep(1)
        await alice.connect(*address_of(it.hubs[1]))  # the lane goes on over this session
        await asyncio.sleep(1)
        broken.mend()
        assert await stop == ()
        assert await receive(alice, hub.node_id, 1) == [b"over the older session"]


@in_virtual_time
async def test_a_stop_reports_what_is_lost_with_another_hub_while_it_waits() -> None:
    async with cluster(grace=3) as it:
        alice, hub = await waiting_for_alice(it), it.hubs[0]
        stop = asyncio.create_task(hub.stop(drain=60))
        await asyncio.sleep(1)
        for link, _ in list(hub_of(it.hubs[1]).others.values()):
            live(link.session).abort()
        assert {error.peer_node_id for error in await stop} == {alice.node_id}
