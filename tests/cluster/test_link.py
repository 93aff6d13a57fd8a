"""The link to another hub, which may stop reading, or be killed."""

from __future__ import annotations

import asyncio

from helpers.cluster import cluster, hub_of
from helpers.nodes import EventLog, in_virtual_time, until
from seigr_toolset_transmissions.sessions.public import SessionState

MIB = 1024 * 1024


@in_virtual_time
async def test_a_hub_that_stops_reading_is_cut_off_at_a_limit() -> None:
    async with cluster() as it:
        node = hub_of(it.hubs[1])._membership.node
        assert node is not None
        goes_on = asyncio.Event()

        async def block(*, session_id: bytes, data: bytes) -> None:
            assert session_id
            assert data
            await goes_on.wait()

        node.events.register("data_received", block)
        (reader,) = hub_of(it.hubs[1]).others.values()
        reader.link.session.taker = lambda _: 0
        log = EventLog(it.hubs[0], "hub_lost", "hub_joined")
        (other,) = hub_of(it.hubs[0]).others.values()
        data, posted = b"\xff" + bytes(MIB - 1), 0  # of a kind that hubs ignore
        while other.link.session.state is not SessionState.CLOSED:
            other.link.post(data)
            posted += 1
            assert posted < 100
            await asyncio.sleep(0.01)
        assert posted > 32
        goes_on.set()
        await log.until("hub_lost")
        await log.until("hub_joined")
        await until(lambda: len(it.hubs[1].cluster.hubs) == 1)


@in_virtual_time
async def test_a_hub_on_a_bus_that_is_killed_under_load_is_noticed_within_a_second() -> None:
    async with cluster() as it:
        alice, hub = await it.peer("alice", it.hubs[1]), it.hubs[0]
        log = EventLog(hub, "hub_suspended")

        async def send() -> None:
            while True:
                await hub.endpoints.send_to_endpoint(alice.node_id, bytes(1000))
                await asyncio.sleep(0.01)

        sending = asyncio.create_task(send())
        await asyncio.sleep(5)
        await it.kill(1)
        await log.until("hub_suspended", seconds=1.1)
        sending.cancel()
