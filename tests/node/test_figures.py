"""A node's snapshot: what it shows, what it keeps to itself, and that its totals only grow."""

from __future__ import annotations

import asyncio
import json
from dataclasses import FrozenInstanceError

import pytest

from helpers.nodes import address_of, in_virtual_time, live, memory_nodes, until
from seigr_toolset_transmissions.cluster import Cluster
from seigr_toolset_transmissions.stats import NodeSnapshot
from seigr_toolset_transmissions.transports.memory_bus import MemoryBus


@in_virtual_time
async def test_a_snapshot_shows_the_node_and_each_of_its_endpoints() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        node, peer = pair.listener, pair.dialer.node_id
        node.endpoints.update_endpoint(peer, metadata={"name": "kitchen", "pin": "1234"})
        await node.endpoints.add_endpoint(bytes(32), ("192.0.2.1", 9000))
        for data in (b"one", b"three"):
            await pair.near.send(data)
        await pair.far.send(b"a reply")
        await pair.near.flush()
        await asyncio.sleep(5)
        shot = node.snapshot()
        assert shot.node_id == node.node_id
        assert shot.address == node.address
        assert shot.stats == node.stats()
        assert (shot.hub, shot.hubs) == (None, ())
        assert shot.uptime == pytest.approx(5, abs=1)
        here, away = shot.endpoints
        assert (here.endpoint_id, here.name, here.state) == (peer, "kitchen", "connected")
        assert (here.sessions, here.resumes) == (1, 0)
        assert (here.messages_received, here.bytes_received) == (2, 8)
        assert (here.messages_sent, here.bytes_sent) == (1, 7)
        assert (here.inbox_messages, here.inbox_bytes) == (2, 8)
        assert here.rtt == pair.far.rtt
        assert here.last_activity is not None
        assert (away.address, away.state) == (("192.0.2.1", 9000), "disconnected")
        assert (away.name, away.sessions, away.rtt, away.last_activity) == (None, 0, None, None)
        await node.endpoints.receive_any()
        assert node.snapshot().endpoints[0].inbox_messages == 1
        assert here.inbox_messages == 2, "a snapshot does not change"
        with pytest.raises(FrozenInstanceError):
            here.inbox_messages = 1  # type: ignore[misc]


@in_virtual_time
async def test_what_waits_for_the_peer_is_shown_while_the_session_has_no_connection() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        live(pair.near).cut("for the test")
        await pair.near.send(bytes(1000))
        (peer,) = pair.dialer.snapshot().endpoints
        assert (peer.state, peer.messages_sent) == ("suspended", 1)
        assert peer.unacknowledged_bytes >= 1000
        await pair.near.flush()
        (peer,) = pair.dialer.snapshot().endpoints
        assert (peer.state, peer.resumes, peer.unacknowledged_bytes) == ("connected", 1, 0)


@in_virtual_time
async def test_totals_outlive_the_sessions_and_the_endpoint_of_a_peer() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        await pair.near.send(b"first")
        assert (await pair.listener.endpoints.receive_any())[0] == b"first"
        live(pair.near).cut("for the test")
        await pair.near.send(b"second")
        assert (await pair.listener.endpoints.receive_any())[0] == b"second"
        await pair.near.close()
        await asyncio.sleep(1)
        gone = pair.listener.snapshot()
        assert gone.endpoints == ()
        assert (gone.stats.messages_received, gone.stats.bytes_received) == (2, 11)
        again = await nodes.connect(pair.dialer, pair.listener)
        await again.near.send(b"third")
        await again.near.flush()
        shot = pair.listener.snapshot()
        assert (shot.stats.messages_received, shot.stats.bytes_received) == (3, 16)
        (peer,) = shot.endpoints
        assert (peer.messages_received, peer.bytes_received, peer.resumes) == (1, 5, 0)


@in_virtual_time
async def test_an_endpoint_that_stays_keeps_the_totals_of_ended_sessions() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        peer = pair.listener.node_id
        await pair.dialer.endpoints.add_endpoint(peer, None, exist_ok=True)
        await pair.near.send(b"first")
        live(pair.near).cut("for the test")
        await pair.near.flush()
        await pair.near.close()
        (shot,) = pair.dialer.snapshot().endpoints
        assert (shot.state, shot.sessions) == ("disconnected", 0)
        assert (shot.messages_sent, shot.bytes_sent, shot.resumes) == (1, 5, 1)


def test_totals_outlive_an_event_loop_that_was_closed_while_the_node_ran() -> None:
    loop = asyncio.new_event_loop()
    nodes = memory_nodes()

    async def talk() -> None:
        pair = await nodes.pair()
        await pair.near.send(b"four")
        await pair.near.flush()

    loop.run_until_complete(talk())
    before = [node.stats().bytes_sent for node in nodes.made]
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    assert [node.snapshot().stats.bytes_sent for node in nodes.made] == before

    async def look() -> list[int]:
        for node in nodes.made:
            await node.stop()
        return [node.stats().bytes_sent for node in nodes.made]

    assert asyncio.run(look()) == before == [0, 4]


@in_virtual_time
async def test_a_node_that_does_not_run_has_no_uptime() -> None:
    async with memory_nodes() as nodes:
        node = nodes.make("alice")
        assert node.snapshot().uptime is None
        await node.start()
        await asyncio.sleep(10)
        uptime = node.snapshot().uptime
        assert uptime is not None
        assert 10 <= uptime < 11
        await node.stop()
        assert node.snapshot().uptime is None
        await node.start()
        assert node.snapshot().uptime == 0


@in_virtual_time
async def test_json_shows_names_and_numbers_but_no_payload_and_no_other_metadata() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        node, peer = pair.listener, pair.dialer.node_id
        node.endpoints.update_endpoint(peer, metadata={"name": 'k\n"1"', "pin": "1234"})
        await pair.near.send(b"the payload")
        await pair.near.flush()
        line = node.snapshot().to_json()
        assert "\n" not in line
        assert "1234" not in line
        assert "payload" not in line
        told = json.loads(line)
        assert told["node_id"] == node.node_id.hex()
        assert told["address"] == list(address_of(node))
        assert told["stats"]["messages_received"] == 1
        (endpoint,) = told["endpoints"]
        assert (endpoint["endpoint_id"], endpoint["name"]) == (peer.hex(), 'k\n"1"')


@in_virtual_time
async def test_a_snapshot_can_be_read_back_from_json() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        await pair.listener.endpoints.add_endpoint(bytes(32), ("192.0.2.1", 9000))
        for shot in (pair.listener.snapshot(), pair.dialer.snapshot()):
            assert NodeSnapshot.from_json(shot.to_json()) == shot
            newer = shot.to_json().replace('"stats":{', '"more":[],"stats":{"more":1,')
            assert NodeSnapshot.from_json(newer) == shot
        for wrong in ("", "[]", "{}", shot.to_json().replace('"peers":', '"persons":')):
            with pytest.raises(ValueError, match="this is no snapshot of a node"):
                NodeSnapshot.from_json(wrong)


@in_virtual_time
async def test_a_name_that_is_no_text_is_no_name() -> None:
    async with memory_nodes() as nodes:
        node = await nodes.start()
        await node.endpoints.add_endpoint(bytes(32), None, {"name": ["kitchen"]})
        assert [endpoint.name for endpoint in node.snapshot().endpoints] == [None]


@in_virtual_time
async def test_a_hub_shows_the_other_hubs_of_its_cluster() -> None:
    bus = MemoryBus()
    async with memory_nodes() as nodes:
        hubs = [
            await nodes.start("bob", cluster=Cluster(bus, name=name)) for name in ("one", "two")
        ]
        await until(lambda: all(hub.cluster.hubs for hub in hubs))
        shot = hubs[0].snapshot()
        assert shot.hub == "one"
        assert [(hub.name, hub.connected) for hub in shot.hubs] == [("two", True)]
        assert json.loads(shot.to_json())["hubs"][0]["name"] == "two"
