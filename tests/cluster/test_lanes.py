"""Lanes and deliveries: what becomes of each message on its way to an endpoint of another hub."""

from __future__ import annotations

import asyncio

import pytest

from helpers.cluster import cluster, lanes_of, receive
from helpers.nodes import EventLog, address_of, in_virtual_time, live, until
from seigr_toolset_transmissions import NodeConfig, SendOutcome
from seigr_toolset_transmissions.errors import STTEndpointError, STTMessageSizeError


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
