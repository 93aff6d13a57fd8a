"""Hubs that meet at a real nats-server, which dies under them, and an endpoint that moves."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from helpers.nats_server import NatsServer, needs_nats
from helpers.nodes import EventLog, Nodes, address_of, live, until
from seigr_toolset_transmissions.cluster import Cluster
from seigr_toolset_transmissions.errors import STTEndpointError
from soak.kill_hub import Account

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from seigr_toolset_transmissions import STTNode

pytestmark = needs_nats

COUNT = 1000
LIMIT = 50.0
"""Seconds for a test, once its hubs are there."""


@asynccontextmanager
async def hubs_at(url: str) -> AsyncIterator[tuple[Nodes, list[STTNode]]]:
    """Run three hubs that have found each other at a server."""
    async with Nodes() as nodes:
        hubs = [
            await nodes.listen("bob", cluster=Cluster(url, name=f"hub-{number}"))
            for number in range(3)
        ]
        await until(lambda: all(len(hub.cluster.hubs) == 2 for hub in hubs), LIMIT)
        async with asyncio.timeout(LIMIT):
            yield nodes, hubs


async def connect(peer: STTNode, hubs: list[STTNode], number: int) -> None:
    """Connect a peer to a hub; return when all hubs know where it is."""
    await peer.connect(*address_of(hubs[number]))
    await until(
        lambda: all(hub.cluster.locate(peer.node_id) == f"hub-{number}" for hub in hubs), LIMIT
    )


async def send(hub: STTNode, name: int, peer: STTNode) -> None:
    """Send numbered messages to a peer of any hub."""
    for number in range(COUNT):
        await hub.endpoints.send_to_endpoint(peer.node_id, b"%d %d" % (name, number))
        if number % 10 == 0:
            await asyncio.sleep(0.005)


async def receive(peer: STTNode) -> dict[int, list[int]]:
    """Return what a peer receives from three hubs: the numbers from each."""
    received: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for _ in range(3 * COUNT):
        data, _ = await peer.endpoints.receive_any()
        name, number = map(int, data.split())
        received[name].append(number)
    return received


async def test_a_server_that_dies_costs_no_message_between_hubs() -> None:
    with NatsServer() as server:
        async with hubs_at(server.url) as (nodes, hubs):
            peers = [await nodes.start(name) for name in ("alice", "carol", "dave")]
            for number, peer in enumerate(peers):
                await connect(peer, hubs, number)
            logs = [EventLog(hub, "error", "hub_suspended", "hub_lost") for hub in hubs]
            receiving = [asyncio.create_task(receive(peer)) for peer in peers]
            sending = [
                asyncio.create_task(send(hub, name, peer))
                for name, hub in enumerate(hubs)
                for peer in peers
            ]
            for _ in range(2):
                await asyncio.sleep(0.1)
                server.kill()
                await asyncio.sleep(0.1)
                server.start()
            await asyncio.gather(*sending)
            for received in await asyncio.gather(*receiving):
                assert received == {name: [*range(COUNT)] for name in range(3)}
            for log in logs:
                assert "hub_suspended" in log.names
                assert "hub_lost" not in log.names
                assert log.errors == []


async def test_what_is_sent_to_an_endpoint_that_moves_while_the_server_dies_is_accounted_for() -> (
    None
):
    with NatsServer() as server:
        async with hubs_at(server.url) as (nodes, hubs):
            alice = await nodes.start("alice")
            await connect(alice, hubs, 1)
            log = EventLog(hubs[0], "error")
            account = Account()

            async def send_all() -> None:
                while account.accepted < 3 * COUNT:
                    try:
                        await hubs[0].endpoints.send_to_endpoint(
                            alice.node_id, b"%d" % account.accepted
                        )
                        account.accepted += 1
                    except STTEndpointError:
                        pass  # it is connected to no hub just now
                    if account.accepted % 10 == 0:
                        await asyncio.sleep(0.005)

            async def receive_all() -> None:
                async for data, _ in alice.endpoints.messages():
                    account.arrived(int(data))

            receiving = asyncio.create_task(receive_all())
            sending = asyncio.create_task(send_all())
            await until(lambda: account.delivered > COUNT, LIMIT)
            server.kill()
            live(alice.get_session_for_endpoint(hubs[1].node_id)).abort()
            await alice.connect(*address_of(hubs[2]))
            server.start()
            await sending

            def settled() -> bool:
                for _, details in log.errors:
                    account.unsent += map(int, details["unsent"])
                    account.unknown += map(int, details["unknown"])
                log.entries.clear()
                return account.is_settled

            await until(settled, LIMIT)
            assert hubs[0].cluster.locate(alice.node_id) == "hub-2"
            receiving.cancel()
            await asyncio.wait((receiving,))
    assert account.problems() == []
    assert account.delivered > 2 * COUNT


async def test_hubs_meet_at_a_server_whose_url_holds_a_password() -> None:
    with NatsServer('authorization { user: "ada", password: "right" }') as server:
        url = server.url.replace("//", "//ada:right@")
        async with hubs_at(url) as (nodes, hubs):
            alice = await nodes.start("alice")
            await connect(alice, hubs, 2)
            await hubs[0].endpoints.send_to_endpoint(alice.node_id, b"hi")
            assert await alice.endpoints.receive_any() == (b"hi", hubs[0].node_id)
