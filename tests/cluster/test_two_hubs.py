"""A peer that has sessions with two hubs, which they or it have dialed, or has left one."""

from __future__ import annotations

import asyncio

from helpers.cluster import Broken, cluster
from helpers.nodes import EventLog, address_of, in_virtual_time, live, until


@in_virtual_time
async def test_sessions_with_two_hubs_both_outlive_their_connections() -> None:
    async with cluster(grace=5) as it:
        alice = await it.peer("alice", it.hubs[0])
        await alice.connect(*address_of(it.hubs[1]))
        await asyncio.sleep(1)
        sessions = [live(hub.get_session_for_endpoint(alice.node_id)) for hub in it.hubs]
        for session in sessions:
            session.cut("test")
            await asyncio.sleep(3)
        assert all(session.connected for session in sessions)


@in_virtual_time
async def test_a_session_left_behind_is_given_up_once_it_has_long_had_no_connection() -> None:
    async with cluster(grace=5) as it:
        alice = await it.peer("alice", it.hubs[1])
        far = Broken(alice, it.hubs[1]).far
        await alice.connect(*address_of(it.hubs[0]))
        await asyncio.sleep(4)
        assert far.state == "suspended"
        await until(lambda: far.state == "closed", seconds=2)


@in_virtual_time
async def test_a_session_of_a_peer_that_was_restarted_is_given_up_at_once() -> None:
    async with cluster(grace=60) as it:
        alice = await it.peer("alice", it.hubs[1])
        far = Broken(alice, it.hubs[1]).far
        await alice.stop(drain=0)
        assert far.state == "suspended"
        await it.peer("alice", it.hubs[0])
        await until(lambda: far.state == "closed", seconds=1)


@in_virtual_time
async def test_what_a_hub_said_late_of_a_peer_that_has_left_it_ends_no_session() -> None:
    async with cluster(grace=20) as it:
        it.bus.take_down()
        alice = await it.nodes.start("alice")
        session = await alice.connect(*address_of(it.hubs[0]))
        await asyncio.sleep(1)
        await session.close()
        await alice.stop()
        again = await it.nodes.start("alice")
        await again.connect(*address_of(it.hubs[1]))
        await asyncio.sleep(1)
        it.bus.bring_up()  # only now hub-1 hears that she was at hub-0
        await asyncio.sleep(3)
        far = live(it.hubs[1].get_session_for_endpoint(again.node_id))
        log = EventLog(it.hubs[1])
        far.cut("test")
        await asyncio.sleep(3)
        assert far.connected
        assert log.errors == []


@in_virtual_time
async def test_hubs_that_dial_the_same_node_neither_replace_each_other_nor_are_a_conflict() -> None:
    async with cluster() as it:
        upstream = await it.nodes.listen("carol")
        log = EventLog(upstream, "error", "session_closed")
        sessions = [live(await hub.connect(*address_of(upstream))) for hub in it.hubs]
        for session in [*sessions, *upstream.sessions]:
            await asyncio.sleep(3)
            live(session).cut("test")
        await asyncio.sleep(3)
        assert all(session.connected for session in sessions)
        assert log.entries == []
