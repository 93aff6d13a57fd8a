"""Hubs that are one: sending, asking, searching and broadcasting across them, and their losses."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import pytest

from helpers.cluster import cluster
from helpers.nodes import (
    SHARED_SEED,
    EventLog,
    Nodes,
    address_of,
    in_virtual_time,
    live,
    memory_nodes,
    seed_of,
    until,
)
from seigr_toolset_transmissions import SendOutcome, STTNode
from seigr_toolset_transmissions.cluster import Cluster
from seigr_toolset_transmissions.transports.memory_bus import MemoryBus

if TYPE_CHECKING:
    from pathlib import Path


@in_virtual_time
async def test_a_node_joins_a_cluster_that_it_was_given_later_unless_it_runs() -> None:
    async with cluster() as it:
        node = it.nodes.make("bob")
        node.cluster = Cluster(it.bus, name="late")
        async with node:
            await until(lambda: len(node.cluster.hubs) == 2)
            alice = await it.peer("alice", it.hubs[1])
            await until(lambda: node.cluster.locate(alice.node_id) == "hub-1")
            await node.endpoints.send_to_endpoint(alice.node_id, b"hi")
            assert await alice.endpoints.receive_any() == (b"hi", node.node_id)
            with pytest.raises(RuntimeError, match="a node that runs cannot join"):
                node.cluster = Cluster(it.bus)


@in_virtual_time
async def test_a_message_reaches_an_endpoint_of_another_hub() -> None:
    async with cluster() as it:
        alice = await it.peer("alice", it.hubs[1])
        for number in range(1000):
            await it.hubs[0].endpoints.send_to_endpoint(alice.node_id, b"%d" % number)
        for number in range(1000):
            assert await alice.endpoints.receive_from(it.hubs[0].node_id) == (
                b"%d" % number,
                it.hubs[0].node_id,
            )
        assert await it.hubs[0].endpoints.send_to_many([alice.node_id, b"x"], b"both") == {
            alice.node_id: SendOutcome.ACCEPTED,
            b"x": SendOutcome.UNKNOWN,
        }
        assert await alice.endpoints.receive_from(it.hubs[0].node_id) == (
            b"both",
            it.hubs[0].node_id,
        )


@in_virtual_time
async def test_a_request_reaches_an_endpoint_of_another_hub() -> None:
    async with cluster() as it:
        alice = await it.peer("alice", it.hubs[1])

        @alice.on_request
        async def answer(peer_node_id: bytes, data: bytes) -> bytes:
            return data[::-1]

        assert await it.hubs[0].endpoints.request(alice.node_id, b"abc", timeout=5) == b"cba"


@in_virtual_time
async def test_find_broadcast_and_get_endpoint_concern_all_hubs() -> None:
    async with cluster(3) as it:
        alice, carol = await it.peer("alice", it.hubs[1]), await it.peer("carol", it.hubs[2])
        it.hubs[1].endpoints.update_endpoint(alice.node_id, metadata={"type": "sensor"})
        hub = it.hubs[0]
        assert await hub.cluster.find(type="sensor") == [alice.node_id]
        assert set(await hub.cluster.find()) == {alice.node_id, carol.node_id}
        tally = await hub.cluster.broadcast(b"all")
        assert (tally.accepted, tally.refused, tally.unheard) == (2, 0, ())
        for peer in (alice, carol):
            assert await peer.endpoints.receive_from(hub.node_id) == (b"all", hub.node_id)
        info = await hub.cluster.get_endpoint(alice.node_id)
        assert info is not None
        assert info["metadata"] == {"type": "sensor"}
        assert hub.cluster.locate(alice.node_id) == "hub-1"


@in_virtual_time
async def test_an_outage_of_the_bus_loses_nothing() -> None:
    async with cluster() as it:
        alice = await it.peer("alice", it.hubs[1])
        log = EventLog(it.hubs[0])
        for number in range(300):
            await it.hubs[0].endpoints.send_to_endpoint(alice.node_id, b"%d" % number)
            if number % 100 == 50:
                it.bus.take_down()
                await asyncio.sleep(3)
                it.bus.bring_up()
                await asyncio.sleep(1)
        for number in range(300):
            assert await alice.endpoints.receive_from(it.hubs[0].node_id) == (
                b"%d" % number,
                it.hubs[0].node_id,
            )
        assert log.errors == []


@in_virtual_time
async def test_when_a_hub_is_lost_each_message_is_delivered_or_reported() -> None:
    async with cluster(grace=5) as it:
        alice = await it.peer("alice", it.hubs[1])
        log = EventLog(it.hubs[0], "error", "hub_lost")
        session = live(it.hubs[1].get_session_for_endpoint(alice.node_id))
        session.cut("test")
        for number in range(300):
            await it.hubs[0].endpoints.send_to_endpoint(alice.node_id, b"%d" % number)
        it.bus.take_down()
        await log.until("hub_lost", seconds=60)
        await until(lambda: log.errors, seconds=60)
        it.bus.bring_up()
        await until(lambda: it.hubs[0].cluster.locate(alice.node_id))
        await it.hubs[0].endpoints.send_to_endpoint(alice.node_id, b"last")
        received: list[bytes] = []
        while not received or received[-1] != b"last":
            received.append((await alice.endpoints.receive_from(it.hubs[0].node_id))[0])
        numbers = [int(data) for data in received[:-1]]
        unsent = [int(data) for _, details in log.errors for data in details["unsent"]]
        unknown = [int(data) for _, details in log.errors for data in details["unknown"]]
        assert {kind for kind, _ in log.errors} == {"endpoint_lost"}
        assert numbers == sorted(set(numbers))
        assert [*unknown, *unsent] == sorted({*unknown, *unsent})
        assert not set(numbers) & set(unsent)
        assert {*numbers, *unsent, *unknown} == set(range(300))


@in_virtual_time
async def test_a_ban_holds_at_every_hub() -> None:
    async with cluster() as it:
        alice = await it.peer("alice", it.hubs[1])
        await it.hubs[0].ban(alice.node_id)
        await until(lambda: not it.hubs[1].sessions)
        assert alice.node_id in it.hubs[1].banned


@in_virtual_time
async def test_what_has_not_arrived_follows_an_endpoint_to_another_hub() -> None:
    async with cluster(3) as it:
        alice = await it.peer("alice", it.hubs[1])
        session = live(alice.get_session_for_endpoint(it.hubs[0].node_id))
        live(it.hubs[1].get_session_for_endpoint(alice.node_id)).cut("test")
        for number in range(10):  # they wait at the hub that she has left
            await it.hubs[0].endpoints.send_to_endpoint(alice.node_id, b"%d" % number)
        session.abort()
        await alice.connect(*address_of(it.hubs[2]))
        for number in range(10):
            data, _ = await alice.endpoints.receive_from(it.hubs[0].node_id)
            assert data == b"%d" % number
        await until(lambda: it.hubs[0].cluster.locate(alice.node_id) == "hub-2")
        await it.hubs[0].endpoints.send_to_endpoint(alice.node_id, b"last")  # and nothing twice
        assert (await alice.endpoints.receive_from(it.hubs[0].node_id))[0] == b"last"


@in_virtual_time
async def test_a_slow_endpoint_holds_up_only_what_is_sent_to_it() -> None:
    async with cluster() as it:
        slow, fast = await it.peer("alice", it.hubs[1]), await it.peer("carol", it.hubs[1])
        live(it.hubs[1].get_session_for_endpoint(slow.node_id)).cut("test")
        live(slow.get_session_for_endpoint(it.hubs[1].node_id)).dial_address = None
        full = asyncio.create_task(flood(it.hubs[0], slow.node_id))
        await asyncio.sleep(1)
        assert not full.done()
        await it.hubs[0].endpoints.send_to_endpoint(fast.node_id, b"quick", timeout=1)
        data, _ = await fast.endpoints.receive_from(it.hubs[0].node_id, timeout=1)
        assert data == b"quick"
        full.cancel()
        await asyncio.wait((full,))


async def flood(hub: STTNode, endpoint_id: bytes) -> None:
    for _ in range(1000):
        await hub.endpoints.send_to_endpoint(endpoint_id, bytes(64 * 1024))


async def test_hubs_meet_in_a_folder(tmp_path: Path) -> None:
    async with Nodes() as nodes:
        where = f"unix://{tmp_path / 'hubs'}"
        hubs = [
            await nodes.listen("bob", cluster=Cluster(where, name=f"hub-{i}")) for i in range(2)
        ]
        alice = await nodes.start("alice")
        await alice.connect(*address_of(hubs[1]))
        await until(lambda: hubs[0].cluster.locate(alice.node_id) == "hub-1")
        await hubs[0].endpoints.send_to_endpoint(alice.node_id, b"over a socket")
        data, _ = await alice.endpoints.receive_from(hubs[0].node_id, timeout=10)
        assert data == b"over a socket"
        assert (tmp_path / "hubs").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("where", ["", "unix://relative", "http://broker", "nats://"])
def test_a_place_where_hubs_cannot_meet_is_refused(where: str) -> None:
    with pytest.raises(ValueError, match="hubs cannot meet"):
        Cluster(where)


@in_virtual_time
async def test_a_hub_with_another_node_seed_is_never_seen() -> None:
    bus = MemoryBus()
    async with memory_nodes() as nodes:
        one = await nodes.listen("bob", cluster=Cluster(bus, name="one"))
        other = await nodes.listen("carol", cluster=Cluster(bus, name="other"))
        await asyncio.sleep(10)
        assert one.cluster.hubs == other.cluster.hubs == []


@in_virtual_time
async def test_values_that_cannot_be_compared_elsewhere_are_refused() -> None:
    async with cluster() as it:
        with pytest.raises(TypeError, match="other hubs can compare"):
            await it.hubs[0].cluster.find(position=(1, 2))


async def test_a_hub_of_this_machine_that_was_killed_is_lost_at_once(tmp_path: Path) -> None:
    hubs = f"unix://{tmp_path / 'hubs'}"
    script = (
        "import asyncio, sys\n"
        "from seigr_toolset_transmissions import STTNode\n"
        "from seigr_toolset_transmissions.cluster import Cluster\n"
        "async def main():\n"
        "    seed, shared, hubs = map(bytes.fromhex, sys.argv[1:])\n"
        "    cluster = Cluster(hubs.decode(), name='far')\n"
        "    async with STTNode(seed, shared, '127.0.0.1', cluster=cluster).listening():\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    async with Nodes() as nodes:
        near = await nodes.listen("bob", cluster=Cluster(hubs, name="near", grace=600))
        log = EventLog(near, "hub_joined", "hub_lost")
        seeds = [value.hex() for value in (seed_of("bob"), SHARED_SEED, hubs.encode())]
        far = await asyncio.create_subprocess_exec(sys.executable, "-c", script, *seeds)
        try:
            assert await log.until("hub_joined") == {"hub": "far"}
        finally:
            far.kill()
            await far.wait()
        assert await log.until("hub_lost") == {"hub": "far"}
