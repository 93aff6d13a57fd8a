"""Lanes and deliveries: what becomes of each message on its way to an endpoint of another hub."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from helpers.cluster import Hubs, cluster, lanes_of, receive
from helpers.nodes import EventLog, address_of, in_virtual_time, live, until
from seigr_toolset_transmissions import NodeConfig, SendOutcome
from seigr_toolset_transmissions.errors import STTEndpointError, STTMessageSizeError

if TYPE_CHECKING:
    from seigr_toolset_transmissions import STTNode
    from seigr_toolset_transmissions.sessions.session import LiveSession


@in_virtual_time
async def test_a_message_too_long_for_the_endpoint_is_reported_once_and_holds_up_nothing() -> None:
    async with cluster() as it:
        alice = await it.peer("alice", it.hubs[1], config=NodeConfig(max_message_bytes=100))
        log = EventLog(it.hubs[0])
        for data in (b"before", bytes(101)):
            await it.hubs[0].endpoints.send_to_endpoint(alice.node_id, data)
        await until(lambda: log.errors)
        (lane,) = lanes_of(it.hubs[0])
        await asyncio.wait_for(lane.drained(), 5)  # without any other message in the lane
        await it.hubs[0].endpoints.send_to_endpoint(alice.node_id, b"after")
        for data in (b"before", b"after"):
            assert (await alice.endpoints.receive_any())[0] == data
        await lane.drained()
        await it.hubs[1].kick(alice.node_id)
        await until(lambda: it.hubs[0].cluster.locate(alice.node_id) is None)
        ((kind, details),) = log.errors
        assert kind == "endpoint_lost"
        assert (details["unsent"], details["unknown"]) == ((bytes(101),), ())


@in_virtual_time
async def test_a_message_too_long_for_the_endpoint_is_not_sent_again_when_it_leaves() -> None:
    async with cluster(grace=2) as it:
        alice = await it.peer("alice", it.hubs[1], config=NodeConfig(max_message_bytes=100))
        log = EventLog(it.hubs[0])
        live(it.hubs[1].get_session_for_endpoint(alice.node_id)).cut("test")
        live(alice.get_session_for_endpoint(it.hubs[1].node_id)).dial_address = None
        await it.hubs[0].endpoints.send_to_endpoint(alice.node_id, b"waits")
        await it.hubs[0].endpoints.send_to_endpoint(alice.node_id, bytes(101))
        await until(lambda: log.errors)
        await it.hubs[1].kick(alice.node_id)
        await until(lambda: len(log.errors) == 2)
        assert [each["unsent"] for _, each in log.errors] == [(bytes(101),), (b"waits",)]


@in_virtual_time
async def test_a_message_longer_than_any_hub_takes_is_refused_at_once() -> None:
    async with cluster() as it:
        alice = await it.peer("alice", it.hubs[1])
        most = it.hubs[0].config.max_message_bytes
        with pytest.raises(STTMessageSizeError, match="max_message_bytes"):
            await it.hubs[0].endpoints.send_to_endpoint(alice.node_id, bytes(most + 1))
        with pytest.raises(STTMessageSizeError, match="max_message_bytes"):
            await it.hubs[0].cluster.broadcast(bytes(most + 1))


@in_virtual_time
async def test_an_id_that_is_no_node_id_leads_nowhere() -> None:
    async with cluster() as it:
        alice = await it.peer("alice", it.hubs[1])
        for strange in (alice.node_id + b"x", alice.node_id[:8]):
            await it.hubs[0].endpoints.add_endpoint(strange, None)
            with pytest.raises(STTEndpointError):
                await it.hubs[0].endpoints.send_to_endpoint(strange, b"astray", timeout=1)
            assert it.hubs[0].cluster.locate(strange) is None
            assert await it.hubs[0].cluster.get_endpoint(strange) is None


@in_virtual_time
async def test_a_hub_that_stops_delivers_what_it_was_given_and_passes_on_the_rest() -> None:
    async with cluster() as it:
        alice = await it.peer("alice", it.hubs[1])
        log = EventLog(it.hubs[0])
        for number in range(500):
            await it.hubs[0].endpoints.send_to_endpoint(alice.node_id, b"%d" % number)
        receiving = asyncio.create_task(receive(alice, it.hubs[0].node_id, 500))
        await it.hubs[1].stop()
        received = await receiving
        await alice.connect(*address_of(it.hubs[0]))
        received += await receive(alice, it.hubs[0].node_id, 500 - len(received))
        assert received == [b"%d" % number for number in range(500)]
        assert log.errors == []


@in_virtual_time
async def test_a_hub_that_stops_waits_for_endpoints_of_other_hubs_and_its_own_at_once() -> None:
    async with cluster() as it:
        alice, carol = await it.peer("alice", it.hubs[1]), await it.peer("carol", it.hubs[0])
        live(it.hubs[0].get_session_for_endpoint(carol.node_id)).cut("test")
        live(carol.get_session_for_endpoint(it.hubs[0].node_id)).dial_address = None
        await it.hubs[0].endpoints.send_to_endpoint(carol.node_id, b"never acknowledged")
        await it.hubs[0].endpoints.send_to_endpoint(alice.node_id, b"hi")
        report = await it.hubs[0].stop(drain=3)
        assert [error.peer_node_id for error in report] == [carol.node_id]
        assert (await alice.endpoints.receive_any())[0] == b"hi"


@in_virtual_time
async def test_all_lanes_together_hold_no_more_than_the_node_may_hold() -> None:
    config = NodeConfig(
        max_message_bytes=1024,
        send_window_bytes=64 * 1024,
        receive_window_bytes=64 * 1024,
        max_buffered_bytes=256 * 1024,
    )
    async with cluster(config=config) as it:
        alice, carol = await it.peer("alice", it.hubs[1]), await it.peer("carol", it.hubs[1])
        for peer in (alice, carol):
            live(it.hubs[1].get_session_for_endpoint(peer.node_id)).cut("test")
            live(peer.get_session_for_endpoint(it.hubs[1].node_id)).dial_address = None
        endpoints = it.hubs[0].endpoints
        accepted = 0
        while await endpoints.send_to_many([alice.node_id], bytes(1000), timeout=0.1) == {
            alice.node_id: SendOutcome.ACCEPTED
        }:
            accepted += 1
        lanes = lanes_of(it.hubs[0])
        assert 200 < accepted < 256
        assert lanes.held <= config.max_buffered_bytes
        # An endpoint for which nothing is under way is not shut out.
        await endpoints.send_to_endpoint(carol.node_id, bytes(1000), timeout=1)
        await it.hubs[0].stop(drain=0)
        assert lanes.held == 0


async def two_sessions(it: Hubs, alice: STTNode) -> tuple[LiveSession, LiveSession]:
    """Let Alice open a newer session at hub-1; return both, as the hub has them."""
    older = live(it.hubs[1].get_session_for_endpoint(alice.node_id))
    await alice.connect(*address_of(it.hubs[1]))
    await until(lambda: it.hubs[1].get_session_for_endpoint(alice.node_id) is not older)
    return older, live(it.hubs[1].get_session_for_endpoint(alice.node_id))


@in_virtual_time
async def test_an_endpoint_whose_older_session_ends_stays_within_reach() -> None:
    async with cluster() as it:
        alice, endpoints = await it.peer("alice", it.hubs[1]), it.hubs[0].endpoints
        await endpoints.send_to_endpoint(alice.node_id, b"first")
        older, newer = await two_sessions(it, alice)
        await asyncio.sleep(1)  # the other hub has heard of it
        await endpoints.send_to_endpoint(alice.node_id, b"second")
        await older.close()
        await asyncio.sleep(1)
        assert it.hubs[0].cluster.locate(alice.node_id) == "hub-1"
        await endpoints.send_to_endpoint(alice.node_id, b"third")
        assert await receive(alice, it.hubs[0].node_id, 3) == [b"first", b"second", b"third"]
        assert newer.stats.messages_sent == 2


@in_virtual_time
async def test_an_endpoint_whose_route_falls_back_to_an_older_session_stays_within_reach() -> None:
    async with cluster() as it:
        alice, endpoints = await it.peer("alice", it.hubs[1]), it.hubs[0].endpoints
        _, newer = await two_sessions(it, alice)
        await asyncio.sleep(1)
        await endpoints.send_to_endpoint(alice.node_id, b"over the newer")
        await newer.close()
        await asyncio.sleep(1)
        await endpoints.send_to_endpoint(alice.node_id, b"over the older")
        assert await receive(alice, it.hubs[0].node_id, 2) == [b"over the newer", b"over the older"]


@pytest.mark.parametrize("comes_back", [True, False])
@in_virtual_time
async def test_new_messages_go_over_a_newer_session_and_the_older_one_keeps_its_own(
    comes_back: bool,
) -> None:
    config = NodeConfig(send_window_messages=5)
    async with cluster(config=config) as it:
        alice, hub = await it.peer("alice", it.hubs[1]), it.hubs[0]
        log = EventLog(hub)
        mine = live(alice.get_session_for_endpoint(hub.node_id))
        older = live(it.hubs[1].get_session_for_endpoint(alice.node_id))
        address, mine.dial_address = mine.dial_address, ("nowhere", 1)
        older.cut("test")
        for number in range(8):  # three of them find no room in the session
            await hub.endpoints.send_to_endpoint(alice.node_id, b"%d" % number)
        await asyncio.sleep(1)
        await two_sessions(it, alice)
        await hub.endpoints.send_to_endpoint(alice.node_id, b"8")
        received = await receive(alice, hub.node_id, 4)
        assert received == [b"5", b"6", b"7", b"8"]
        await asyncio.sleep(60)  # an idle lane is closed meanwhile
        await hub.endpoints.send_to_endpoint(alice.node_id, b"9")
        assert await receive(alice, hub.node_id, 1) == [b"9"]
        kept = [b"%d" % number for number in range(5)]
        if comes_back:
            mine.dial_address = address
            alice.retry_now(hub.node_id)
            assert await receive(alice, hub.node_id, 5) == kept
            await until(lambda: all(lane.is_empty for lane in lanes_of(hub)))
            assert log.errors == []
        else:
            older.lose("test")
            await until(lambda: log.errors)
            ((kind, details),) = log.errors
            assert kind == "endpoint_lost"
            assert [*details["unsent"], *details["unknown"]] == kept
        await until(lambda: lanes_of(hub).held == 0)
        assert hub.cluster.locate(alice.node_id) == "hub-1"


async def moved_here(it: Hubs) -> STTNode:
    """Return Alice, who is at hub-0 now, while five messages wait for her at a hub out of reach."""
    alice, hub = await it.peer("alice", it.hubs[1]), it.hubs[0]
    # The other hub is gone, and its link is not given up yet: as after kill -9.
    it.bus.take_down()
    await asyncio.sleep(0.2)
    for number in range(5):
        await hub.endpoints.send_to_endpoint(alice.node_id, b"%d" % number)
    live(alice.get_session_for_endpoint(hub.node_id)).abort()
    await alice.connect(*address_of(hub))
    await until(lambda: hub.get_session_for_endpoint(alice.node_id))
    return alice


@in_virtual_time
async def test_new_messages_do_not_overtake_those_that_wait_for_a_lost_hub() -> None:
    async with cluster(2, grace=5) as it:
        alice, hub = await moved_here(it), it.hubs[0]
        for number in range(5, 10):
            await hub.endpoints.send_to_endpoint(alice.node_id, b"%d" % number)
        got = [(await alice.endpoints.receive_from(hub.node_id, timeout=60))[0] for _ in range(10)]
        assert got == [b"%d" % number for number in range(10)]


@in_virtual_time
async def test_a_reply_does_not_wait_for_messages_of_a_lost_hub() -> None:
    async with cluster(2, grace=5) as it:
        alice, hub = await moved_here(it), it.hubs[0]

        @hub.on_request
        async def answer(peer_node_id: bytes, data: bytes) -> bytes:
            return data

        sending = asyncio.create_task(hub.endpoints.send_to_endpoint(alice.node_id, b"5"))
        before = asyncio.get_running_loop().time()
        for question in (b"a", b"b"):
            assert await alice.endpoints.request(hub.node_id, question) == question
        assert asyncio.get_running_loop().time() - before < 0.5
        assert not sending.done()
        assert await receive(alice, hub.node_id, 6) == [b"%d" % number for number in range(6)]
        await sending


@in_virtual_time
async def test_what_waits_for_a_lane_keeps_its_place_when_the_session_resumes() -> None:
    async with cluster(2, grace=5) as it:
        alice, hub = await moved_here(it), it.hubs[0]

        async def send() -> None:
            for number in range(5, 10):
                await hub.endpoints.send_to_endpoint(alice.node_id, b"%d" % number)

        sending = asyncio.create_task(send())
        await asyncio.sleep(0.2)
        session = live(hub.get_session_for_endpoint(alice.node_id))
        session.cut("test")
        await until(lambda: session.connected)
        assert await receive(alice, hub.node_id, 10) == [b"%d" % number for number in range(10)]
        await sending


@in_virtual_time
async def test_an_endpoint_that_still_has_a_full_session_elsewhere_is_not_shut_out() -> None:
    async with cluster(2, grace=5) as it:
        alice, hub = await it.peer("alice", it.hubs[1]), it.hubs[0]

        @hub.on_request
        async def answer(peer_node_id: bytes, data: bytes) -> bytes:
            return data

        full = {alice.node_id: SendOutcome.FULL}
        while await hub.endpoints.send_to_many([alice.node_id], bytes(10_000), timeout=1) != full:
            pass  # she takes nothing
        await alice.connect(*address_of(hub))
        await asyncio.sleep(1)
        answers: list[bytes] = []

        async def ask(**_: object) -> None:
            if not answers:
                answers.append(await alice.endpoints.request(hub.node_id, b"?", timeout=60))

        alice.events.register("data_received", ask)
        await until(lambda: answers == [b"?"], seconds=60)


@in_virtual_time
async def test_a_message_too_long_for_a_new_session_does_not_take_others_with_it() -> None:
    async with cluster(2, grace=60) as it:
        alice, hub = await it.peer("alice", it.hubs[1]), it.hubs[0]
        log = EventLog(hub)
        live(it.hubs[1].get_session_for_endpoint(alice.node_id)).cut("test")
        live(alice.get_session_for_endpoint(hub.node_id)).dial_address = None
        for data in (bytes(5000), b"1", b"2"):
            await hub.endpoints.send_to_endpoint(alice.node_id, data)
        await it.hubs[1].kick(alice.node_id)
        await alice.stop()
        again = await it.nodes.start("alice", config=NodeConfig(max_message_bytes=100))
        await again.connect(*address_of(hub))
        assert await receive(again, hub.node_id, 2) == [b"1", b"2"]
        ((kind, details),) = log.errors
        assert (kind, details["unsent"]) == ("endpoint_lost", (bytes(5000),))


@in_virtual_time
async def test_a_message_too_long_for_a_new_hub_does_not_take_others_with_it() -> None:
    most = 8 * 1024 * 1024
    large = NodeConfig(
        max_message_bytes=most, send_window_bytes=2 * most, receive_window_bytes=2 * most
    )
    async with cluster(2, grace=60, config=large) as it:
        hub = it.hubs[0]
        it.hubs.append(await it.nodes.listen("bob", cluster=it.another("hub-2")))
        await until(lambda: len(hub.cluster.hubs) == 2)
        alice = await it.peer("alice", it.hubs[1], config=large)
        log = EventLog(hub)
        near = live(alice.get_session_for_endpoint(hub.node_id))
        live(it.hubs[1].get_session_for_endpoint(alice.node_id)).cut("test")
        await hub.endpoints.send_to_endpoint(alice.node_id, bytes(6 * 1024 * 1024))
        waiting = asyncio.create_task(hub.endpoints.send_to_endpoint(alice.node_id, b"next"))
        near.abort()
        await alice.connect(*address_of(it.hubs[2]))
        assert await receive(alice, hub.node_id, 1) == [b"next"]
        await waiting
        ((kind, details),) = log.errors
        assert kind == "endpoint_lost"
        assert [len(data) for data in details["unsent"]] == [6 * 1024 * 1024]
        await until(lambda: lanes_of(hub).held == 0)
