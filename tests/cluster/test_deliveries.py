"""What waits at the hub of a slow endpoint: broadcasts and lanes, in order, counted and bounded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from helpers.cluster import Broken, Hubs, cluster, hub_of, lanes_of, receive
from helpers.nodes import address_of, in_virtual_time, until
from seigr_toolset_transmissions import NodeConfig, STTNode

if TYPE_CHECKING:
    from seigr_toolset_transmissions.cluster.deliveries import Deliveries

FIVE = NodeConfig(send_window_messages=5)


def deliveries_of(hub: STTNode) -> Deliveries:
    """Return what one other hub delivers to endpoints of this one."""
    (other,) = hub_of(hub).others.values()
    return other.deliveries


async def slow_endpoint(it: Hubs, *, lane: bool) -> tuple[STTNode, Broken]:
    """Return a peer of hub-1 whose session there is full, and broken.

    It was filled by a lane of hub-0, which holds two more messages, or by hub-1.
    """
    alice = await it.peer("alice", it.hubs[1], config=FIVE)
    broken = Broken(alice, it.hubs[1])
    for number in range(7 if lane else 5):
        await it.hubs[not lane].endpoints.send_to_endpoint(alice.node_id, b"%d" % number)
    await asyncio.sleep(1)
    return alice, broken


@pytest.mark.parametrize("lane", [True, False])
@in_virtual_time
async def test_a_broadcast_counts_as_accepted_once_the_session_has_accepted_it(lane: bool) -> None:
    async with cluster(config=FIVE) as it:
        alice, broken = await slow_endpoint(it, lane=lane)
        hub = it.hubs[0]
        tallies = [asyncio.create_task(hub.cluster.broadcast(b"all", timeout=60))]
        tallies.append(asyncio.create_task(hub.cluster.broadcast(b"again", timeout=60)))
        await asyncio.sleep(0.1)
        await hub.endpoints.send_to_endpoint(alice.node_id, b"behind")
        await asyncio.sleep(5)
        assert not any(each.done() for each in tallies)
        broken.mend()
        before = [b"%d" % number for number in range(7 if lane else 5)]
        received = await receive(alice, hub.node_id, len(before) + 3)
        assert received == [*before, b"all", b"again", b"behind"]
        for each in tallies:
            tally = await each
            assert (tally.accepted, tally.refused, tally.unheard) == (1, 0, ())
        await until(lambda: deliveries_of(it.hubs[1]).broadcast_bytes == 0)


@pytest.mark.parametrize("lane", [True, False])
@in_virtual_time
async def test_a_broadcast_that_is_not_accepted_in_time_counts_as_refused_and_never_arrives(
    lane: bool,
) -> None:
    async with cluster(config=FIVE) as it:
        alice, broken = await slow_endpoint(it, lane=lane)
        hub = it.hubs[0]
        for _ in range(3):
            tally = await hub.cluster.broadcast(b"all", timeout=2)
            assert (tally.accepted, tally.refused, tally.unheard) == (0, 1, ())
        assert deliveries_of(it.hubs[1]).broadcast_bytes == 0
        broken.mend()
        await hub.endpoints.send_to_endpoint(alice.node_id, b"after")
        before = [b"%d" % number for number in range(7 if lane else 5)]
        assert await receive(alice, hub.node_id, len(before) + 1) == [*before, b"after"]


@pytest.mark.parametrize("lane", [True, False])
@in_virtual_time
async def test_a_broadcast_is_refused_once_the_session_is_lost_that_it_waits_for(
    lane: bool,
) -> None:
    async with cluster(config=FIVE) as it:
        alice, _ = await slow_endpoint(it, lane=lane)
        tally = asyncio.create_task(it.hubs[0].cluster.broadcast(b"all", timeout=600))
        await asyncio.sleep(1)
        await it.hubs[1].kick(alice.node_id)
        async with asyncio.timeout(2):
            assert (await tally).refused == 1
        assert len(deliveries_of(it.hubs[1])) == 0


@in_virtual_time
async def test_a_broadcast_too_long_for_an_endpoint_is_refused_whether_or_not_it_has_room() -> None:
    async with cluster(config=FIVE) as it:
        config = NodeConfig(max_message_bytes=100)
        alice = await it.peer("alice", it.hubs[1], config=config)
        assert (await it.hubs[0].cluster.broadcast(bytes(101))).refused == 1
        broken = Broken(alice, it.hubs[1])
        for number in range(7):
            await it.hubs[0].endpoints.send_to_endpoint(alice.node_id, b"%d" % number)
        tally = asyncio.create_task(it.hubs[0].cluster.broadcast(bytes(101), timeout=60))
        await asyncio.sleep(1)
        broken.mend()
        assert (await tally).refused == 1
        assert len(await receive(alice, it.hubs[0].node_id, 7)) == 7


@in_virtual_time
async def test_no_more_broadcasts_wait_for_a_slow_endpoint_than_a_node_may_hold() -> None:
    async with cluster(config=FIVE) as it:
        await slow_endpoint(it, lane=False)
        hub_of(it.hubs[1]).most_held_bytes = 10_000
        cast = it.hubs[0].cluster.broadcast
        waiting = [asyncio.create_task(cast(bytes(1000), timeout=600)) for _ in range(7)]
        await asyncio.sleep(1)
        async with asyncio.timeout(1):
            assert (await cast(bytes(2000), timeout=600)).refused == 1
        assert not any(each.done() for each in waiting)
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)


@in_virtual_time
async def test_a_hub_takes_nothing_more_while_too_much_waits_for_its_endpoints() -> None:
    async with cluster(config=FIVE) as it:
        alice, broken = await slow_endpoint(it, lane=False)
        hub, most = it.hubs[0], 20_000
        hub_of(it.hubs[1]).most_held_bytes = most
        for _ in range(100):
            await hub.endpoints.send_to_endpoint(alice.node_id, bytes(1000))
        await asyncio.sleep(5)
        assert most < deliveries_of(it.hubs[1]).held <= most + 1064
        broken.mend()
        assert len(await receive(alice, hub.node_id, 105)) == 105
        assert deliveries_of(it.hubs[1]).held == 0


@in_virtual_time
async def test_a_hub_that_takes_nothing_more_notices_that_the_other_is_lost() -> None:
    async with cluster(grace=3, config=FIVE) as it:
        alice, _ = await slow_endpoint(it, lane=False)
        hub_of(it.hubs[1]).most_held_bytes = 5000
        for _ in range(100):
            await it.hubs[0].endpoints.send_to_endpoint(alice.node_id, bytes(1000))
        await asyncio.sleep(1)
        it.bus.take_down()
        await until(lambda: not it.hubs[1].cluster.hubs)
        await alice.connect(*address_of(it.hubs[0]))
        await until(lambda: lanes_of(it.hubs[0]).held == 0)
